"""Memory that a device needs at the worst moment of a step, in bytes: predicted from what is kept and by whom.

What is kept between forward and backward was read off `ilm_ray.model`, tensor by tensor. States: 4 bytes each of master
weight, gradient and two moments (mixed precision as FSDP2 does it).
"""

from dataclasses import dataclass

from ilm_ray.model.internlm2 import Shape
from ilm_ray.parallel.layout import Layout
from ilm_ray.parallel.step import Pieces, Step, pieces


@dataclass(frozen=True)
class Memory:
    """Bytes of a device when it needs most."""

    weights: int  # the share of master weights that it stores
    optimizer: int  # its share of the two moments
    gradients: int  # shares, and whole ones that wait for the last micro-batch
    gathered: int  # whole parameters in the type that is computed with
    activations: int  # kept for the backward
    transient: int  # of the loss or of the block whose backward runs, whichever is more

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def peak_memory(shape: Shape, layout: Layout, step: Step, fused: bool) -> Memory:
    """That of the rank of the pipeline that needs most. `fused`: as of the device (`devices.Device`)."""
    kept = activations(shape, layout, step, fused)
    # Where all ranks hold as many blocks, later ones keep fewer micro-batches.
    even = shape.layers % layout.stages == 0
    ranks = {0, min(1, layout.pp - 1), layout.pp - 1} if even else range(layout.pp)
    return max((_of_rank(shape, layout, step, rank, kept, fused) for rank in ranks), key=lambda memory: memory.total)


def _of_rank(shape: Shape, layout: Layout, step: Step, rank: int, kept: "Activations", fused: bool) -> Memory:
    held, micros, group, width = pieces(shape, layout, rank), step.micros(layout), layout.optimizer_group, step.width
    share = -(-held.all // group)
    waiting = 4 * held.all if layout.gradients == "replica" and micros > 1 else 0
    reduced = 4 * share if layout.gradients != "replica" and micros > 1 else 0
    kept_here = int(kept.block * _blocks_in_flight(held, layout, micros, rank))
    if rank == layout.pp - 1:
        kept_here += kept.head
    states = {"weights": 4 * share, "optimizer": 8 * share}
    gathered = int(_gathered(held, layout) * width)
    moments = [
        # The backward begins: all activations are there, then the loss or the last block computes.
        Memory(**states, gradients=waiting + reduced + width * held.head, gathered=gathered, activations=kept_here,
               transient=max(_of_loss(shape, layout, step) if held.head else 0,
                             _of_block(shape, layout, step, held) + kept.again)),
        # It ends: parameters are split again, embedding and head are reduced as one, from and to fp32.
        Memory(**states, gradients=4 * share, gathered=0, activations=0,
               transient=4 * held.root + max(0, (4 if waiting else width) * held.root - 4 * held.root // group)),
        # AdamW: over lists of tensors on CUDA (`foreach`), with one number of scratch a parameter; else one by one.
        Memory(**states, gradients=4 * share, gathered=0, activations=0, transient=4 * share if fused else 0),
    ]  # fmt: skip
    return max(moments, key=lambda m: m.total)


def _blocks_in_flight(held: Pieces, layout: Layout, micros: int, rank: int) -> float:
    """Blocks whose activations a rank keeps at once, each for one micro-batch.

    GPipe keeps all micro-batches; 1F1B as many as there are ranks from here on (PipeDream-flush, arXiv 2006.09503);
    interleaved those and a round more of its stages (arXiv 2104.04473, section 2.2).
    """
    if layout.pp == 1:
        return held.blocks
    if layout.schedule == "gpipe":
        return held.blocks * micros
    if layout.schedule == "1f1b":
        return held.blocks * min(micros, layout.pp - rank)
    chunks = 2 * (layout.pp - rank - 1) + (layout.virtual_stages - 1) * layout.pp + 1
    return held.blocks * min(micros, chunks / layout.virtual_stages)


def _gathered(held: Pieces, layout: Layout) -> float:
    """Numbers of parameters that are whole on a rank when a backward begins."""
    # torch's pipeline schedules split nothing again after a backward until the last one.
    if layout.parameters == "replica" or layout.pp > 1:
        return held.all
    ahead = held.root + held.block * min(held.blocks, 1 + layout.prefetch)
    if layout.parameters != layout.optimizer:  # blocks stay split over a smaller group after the forward
        return ahead + held.block * held.blocks / layout.shard_group
    return ahead


@dataclass(frozen=True)
class Activations:
    """Bytes that one micro-batch leaves on a rank until its backward."""

    block: int
    head: int  # final norm: its input and what it gives to the head
    again: int = 0  # of the block whose backward runs: what was not kept and is computed again


def activations(shape: Shape, layout: Layout, step: Step, fused: bool) -> Activations:
    """What is kept for the backward: all that autograd needs, or what `layout.recompute` leaves of it.

    full: a block's input. selective: that too, and what matrix products and attention give.
    """
    whole = _kept_by_autograd(shape, layout, step, fused)
    if layout.recompute == "none":
        return whole
    row = step.width * shape.hidden // (layout.tp if layout.sequence_parallel else 1)
    if layout.recompute == "selective":
        # wqkv, attention with its log-sum-exp, wo, w1 and w3, w2; those of wo and w2 before ranks add them up.
        queries, pairs = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
        parts = (2 * queries + pairs + 2 * shape.mlp_hidden) // layout.tp + 2 * shape.hidden
        row += step.width * parts + 4 * shape.heads // layout.tp
    block = step.rows(layout) * row
    return Activations(block, whole.head, again=max(0, whole.block - block))


def _kept_by_autograd(shape: Shape, layout: Layout, step: Step, fused: bool) -> Activations:
    """Of a block: two norms, rotary tables, attention, MLP (gate, up, silu(gate), product)."""
    rows, width, tp = step.rows(layout), step.width, layout.tp
    queries, pairs = shape.heads * shape.head_dim // tp, 2 * shape.kv_heads * shape.head_dim // tp
    rows_parted = tp if layout.sequence_parallel else 1
    # A norm keeps its input; where it is made of parts, that in fp32 and the normalised too. What follows keeps the
    # result, whole: with sequence parallelism it is gathered.
    norm = (width if fused else 8) * shape.hidden // rows_parted + width * shape.hidden
    rotary = 8 * shape.head_dim  # sine and cosine in fp32, once for queries and once for keys
    if layout.cp == 1:  # the fused projection (values are a view of it), rotated queries and keys
        attention = 2 * queries + 3 * pairs // 2
    elif layout.cp_kind == "ulysses":  # the exchanged projection, and queries cut out of it
        attention = 2 * queries + pairs
    else:  # queries; keys and values of all ranks; on a CPU the mask, as numbers to add
        attention = queries + pairs * layout.cp + (0 if fused else step.context)
    # What attention gives, kept by it and by `wo`: once where that is one tensor. Exchanged it is two, and on a CPU.
    exchanged = layout.cp > 1 and layout.cp_kind == "ulysses"
    results = queries if fused and not exchanged else 2 * queries
    sums = 4 * shape.heads // tp  # log-sum-exp of each query
    mlp = 4 * shape.mlp_hidden // tp
    block = 2 * norm + rotary + width * (attention + results + mlp) + sums
    return Activations(rows * block, rows * norm)


def _of_loss(shape: Shape, layout: Layout, step: Step) -> int:
    """A chunk's backward: log-probabilities, their gradient and that of the logits, in fp32."""
    return 12 * min(step.loss_chunk, step.rows(layout)) * shape.vocab_size // layout.tp


def _of_block(shape: Shape, layout: Layout, step: Step, held: Pieces) -> int:
    """The backward of an MLP: gradients of two inner and two outer tensors, those of the block's weights, and these
    once more in fp32 for the reduction."""
    inner = step.rows(layout) * (2 * shape.mlp_hidden // layout.tp + 2 * shape.hidden) * step.width
    return inner + held.block * (step.width + 4)
