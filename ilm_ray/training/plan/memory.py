"""Predicts the peak memory of a device in a step, in bytes.

The tensors kept between forward and backward are those of `ilm_ray.model`, one by one. States: 4 bytes each of master
weight, gradient and two moments (mixed precision as FSDP2 does it).
"""

from dataclasses import dataclass

from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.step import OptimizerStep, Pieces, pieces


@dataclass(frozen=True)
class Memory:
    """Bytes of a device at its peak."""

    weights: int  # the share of master weights that it stores
    optimizer: int  # its share of the two moments
    gradients: int  # shares, and whole ones that wait for the last micro-batch
    gathered: int  # whole parameters in the type of forward and backward
    activations: int  # kept for the backward
    transient: int  # of the loss or of the block whose backward runs, whichever is more

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def peak_memory(shape: Shape, layout: Layout, step: OptimizerStep, fused: bool) -> Memory:
    """Memory of the pipeline rank that needs most. `fused`: see `devices.Device`."""
    kept = activations(shape, layout, step)
    # Where all ranks hold as many blocks, later ones keep fewer micro-batches.
    even = shape.layers % layout.stages == 0
    ranks = {0, min(1, layout.pp - 1), layout.pp - 1} if even else range(layout.pp)
    return max((_of_rank(shape, layout, step, rank, kept, fused) for rank in ranks), key=lambda memory: memory.total)


def _of_rank(shape: Shape, layout: Layout, step: OptimizerStep, rank: int, kept: "Activations", fused: bool) -> Memory:
    held, micros = pieces(shape, layout, rank, step.scalar), step.micros(layout)
    group, width = layout.optimizer_group, step.width
    share = -(-held.all // group)
    states = {"weights": 4 * share, "optimizer": 8 * share}
    wrapped = not _unwrapped(layout, step)
    # A tied head's unit is whole, its gradient unreduced, until the embedding or the stage has gone backward.
    tied = width * held.head * wrapped * (shape.tied and not step.scalar)
    head = held.head + held.norm
    flying = _blocks_in_flight(held, layout, micros, rank)

    def kept_with(blocks: float) -> int:
        tables = kept.tables * (layout.pp - rank if layout.pp > 1 else 1)
        return int(kept.block * blocks) + tables + kept.head * (rank == layout.pp - 1)

    def gathered(unit: int, ahead: int) -> int:
        """Bytes of whole parameters: `unit` of them and `ahead` blocks, or all where they are not split again."""
        if layout.parameters == "replica":
            return width * held.all * wrapped
        # Where blocks stay split over a smaller group after the forward, a part of each is there.
        rest = held.block * held.blocks // layout.shard_group if layout.parameters != layout.optimizer else 0
        return width * (unit + held.block * min(held.blocks, ahead) + rest) * wrapped

    def reduced(unit: int, waiting: bool) -> int:
        """Bytes while a unit's gradients are reduced, from and to fp32, beyond those that wait and its new shares."""
        if not wrapped:
            return 0
        copies = 4 * unit if group > 1 and not fused else 0  # gloo scatters a copy
        return 4 * unit + max(0, (0 if waiting else width) * unit - 4 * unit // group) + copies

    def backward(blocks: float, before: bool, whole: bool) -> list[Memory]:
        """Moments of a backward that begins with the activations of `blocks` blocks.

        before: another has left its gradients; whole: and its parameters, as torch's pipeline schedules have it where
        no forward came in between.
        """
        waiting = 4 * held.all if layout.gradients == "replica" and before else 0
        # Shares of earlier micro-batches stay until the new ones are there and added.
        earlier = 4 * share if layout.gradients != "replica" and before else 0
        # FSDP2 keeps what it gathered last in a forward until that ends, beside the parameters copied out of it.
        again = head * (group > 1 and (layout.parameters != "replica" or not before) and layout.pp == 1)
        at = [width * held.all * wrapped] * 4 if whole else [
            gathered(head + again, 0), gathered(head, layout.prefetch), gathered(0, layout.prefetch),
            gathered(0, 1 + layout.prefetch),
        ]  # fmt: skip
        activations, ready = kept_with(blocks), waiting + earlier
        rounded = (4 + width * (width < 4)) * held.head
        summed = 4 * head // group if layout.gradients != "replica" or not before else 0
        block = _of_block(shape, layout, step, held, fused) + kept.again
        return [
            # The loss leaves the head's gradient in fp32. All activations are there.
            Memory(**states, gradients=ready + 4 * held.head, gathered=at[0], activations=activations,
                   transient=_of_loss(shape, layout, step) * (held.head > 0)),
            # It is rounded to the type of the backward,
            Memory(**states, gradients=ready + rounded, gathered=at[1], activations=activations, transient=0),
            # and reduced with that of its norm.
            Memory(**states, gradients=ready + summed, gathered=at[2], activations=activations,
                   transient=reduced(head, waiting > 0) * (not tied)),
            # A block goes backward while that, or the reduction of the block before, is under way.
            Memory(**states, gradients=ready + (tied or summed), gathered=at[3] + tied, activations=activations,
                   transient=4 * max(0 if tied else head, held.block) * wrapped + block),
        ]  # fmt: skip

    one = held.blocks / layout.virtual_stages  # of a micro-batch in a stage
    followed = micros * held.blocks > flying  # a backward with as many activations has come before
    moments = backward(flying, before=followed, whole=False)
    if layout.pp > 1 and flying > one:
        moments += backward(flying - one, before=True, whole=True)
    # All is split again and reduced but the embedding.
    whole = 4 * held.embedding if layout.gradients == "replica" and micros > 1 else 0
    earlier = 4 * held.embedding // group if layout.gradients != "replica" and micros > 1 else 0
    if tied:  # the embedding's gradient comes beside the head's, and the unit is reduced
        moments.append(
            Memory(**states, gradients=4 * share + tied, gathered=tied, activations=0,
                   transient=max(width * held.head, reduced(head, whole > 0)))
        )  # fmt: skip
    moments.append(
        Memory(**states, gradients=4 * share + whole, gathered=0, activations=0,
               transient=reduced(held.embedding, whole > 0) + earlier)
    )  # fmt: skip
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


def _unwrapped(layout: Layout, step: OptimizerStep) -> bool:
    """A rank that shares its weights with none and computes in their type is left without FSDP2."""
    return layout.sharding_ranks == 1 and layout.tp == 1 and step.precision == "fp32"


@dataclass(frozen=True)
class Activations:
    """Bytes that one micro-batch leaves on a rank until its backward."""

    block: int
    head: int  # the final norm's input, and the gradient that the loss leaves for what the norm gives
    tables: int  # rotary, for all blocks
    again: int = 0  # of the block whose backward runs: what was not kept and is computed again


def activations(shape: Shape, layout: Layout, step: OptimizerStep) -> Activations:
    """Tensors kept for the backward: all that autograd needs, or fewer by `layout.recompute`.

    full: a block's input. selective: that too, and the results that `parallel.recompute` keeps.
    """
    rows, width = step.rows(layout), step.width
    parted = shape.hidden // (layout.tp if layout.sequence_parallel else 1)
    whole = _kept_by_autograd(shape, layout, width, parted)
    kept = {"none": whole, "selective": _kept_by_selection(shape, layout, width, parted), "full": width * parted}
    return Activations(
        block=rows * kept[layout.recompute],
        head=rows * width * (parted + shape.hidden),
        tables=rows * 4 * shape.head_dim,  # cosine and sine of half as many angles, in fp32
        again=rows * max(0, whole - kept[layout.recompute]),
    )


def _kept_by_autograd(shape: Shape, layout: Layout, width: int, parted: int) -> int:
    """Bytes a row of a block: two norms, attention, MLP (gate, up, their product)."""
    queries, pairs = shape.heads * shape.head_dim // layout.tp, 2 * shape.kv_heads * shape.head_dim // layout.tp
    # A norm keeps its input and a factor a row; what follows keeps the result, whole: with sequence parallelism it is
    # gathered.
    norms = 2 * (width * (parted + shape.hidden) + 4)
    attended = queries + pairs * (layout.cp if layout.cp_kind == "gather" else 1)
    # Attention and `wo` both keep attention's output: one tensor, or two where Ulysses exchanges it in between.
    results = 2 * queries if layout.cp > 1 and layout.cp_kind == "ulysses" else queries
    sums = 4 * shape.heads // layout.tp  # log-sum-exp of each query
    # QK norms keep the projection, of which attention sees copies, and a factor a head.
    normed = (width * (queries + pairs) + 4 * (shape.heads + shape.kv_heads) // layout.tp) * shape.qk_norm
    return norms + normed + width * (attended + results + 3 * shape.mlp_hidden // layout.tp) + sums


def _kept_by_selection(shape: Shape, layout: Layout, width: int, parted: int) -> int:
    """Bytes a row of a block: its input; wqkv, attention with its log-sum-exp, wo, w1 and w3, w2; sums over ranks."""
    queries, pairs = shape.heads * shape.head_dim // layout.tp, 2 * shape.kv_heads * shape.head_dim // layout.tp
    products = 2 * queries + pairs + 2 * shape.mlp_hidden // layout.tp + 2 * shape.hidden
    summed = 2 * parted if layout.tp > 1 else 0
    return width * (parted + products + summed) + 4 * shape.heads // layout.tp


def _of_loss(shape: Shape, layout: Layout, step: OptimizerStep) -> int:
    """Bytes of a chunk's logits (later their gradient) and of their log-probabilities in fp32.

    GPipe's losses are computed chunk by chunk in the backward: then log-probabilities and two gradients, in fp32. A
    scalar head has one number a token.
    """
    if step.scalar:
        return 8 * step.rows(layout)
    number = 12 if layout.schedule == "gpipe" and layout.pp > 1 else 4 + step.width
    return number * min(step.loss_chunk, step.rows(layout)) * shape.vocab_size // layout.tp


def _of_block(shape: Shape, layout: Layout, step: OptimizerStep, held: Pieces, fused: bool) -> int:
    """The backward of an MLP: gradients of two inner and two outer tensors, and those of the block's weights.

    Where slices gather keys, both chunks leave a gradient of all of them, which are added up; and a CPU makes a mask
    for a chunk, of numbers to add and their bits.
    """
    inner = step.rows(layout) * (2 * shape.mlp_hidden // layout.tp + 2 * shape.hidden) * step.width
    # When attention's turn comes, what the MLP kept is gone.
    gone = step.width * (3 * shape.mlp_hidden // layout.tp + 2 * shape.hidden)
    keys = mask = 0
    if layout.cp > 1 and layout.cp_kind == "gather":
        pairs = 2 * shape.kv_heads * shape.head_dim // layout.tp
        keys = step.rows(layout) * (3 * step.width * pairs * layout.cp - gone)
        mask = 0 if fused else step.rows(layout) * (step.context * (step.width + 1) // 2 - gone)
    if layout.cp > 1 and layout.cp_kind == "ring":
        # Gradients in fp32 of queries and, sent and received, of pairs; pairs in use and on their way, as they were
        # and as they are put together.
        queries, pairs = shape.heads * shape.head_dim // layout.tp, 2 * shape.kv_heads * shape.head_dim // layout.tp
        keys = step.rows(layout) * (4 * (2 * queries + 3 * pairs) + 3 * step.width * pairs - gone)
    return max(inner, keys, mask) + held.block * step.width
