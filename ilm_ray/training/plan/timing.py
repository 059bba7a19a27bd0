"""Seconds of a step of a layout: computing, waiting for a pipeline, for messages, and the optimizer (predictions)."""

from dataclasses import dataclass

from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.step import OptimizerStep, Pieces, block_matrices, pieces
from ilm_ray.training.plan.traffic import Collective, activation_traffic, state_traffic

# Bytes a parameter that its rank moves at the end of a step. Clipping reads the gradient, then scales it; AdamW reads
# weight, gradient and two moments, and writes all but the gradient: ten numbers of 4 bytes.
OPTIMIZER_BYTES = 40
# Operators that the host dispatches for a block in a micro-batch, forward and backward, FSDP2's own among them: 14,700
# were counted in a fake-tensor trace of a micro-batch of 1_8b, which has 24 blocks. About 150 are the block's own, for
# which torch.compile has about 30 kernels: 15 matrix products, attention, fused pointwise work (our estimate).
OPERATORS, BLOCK_OPERATORS, COMPILED_OPERATORS = 612, 150, 30
# Seconds of the host for an operator under autograd, kernel launch included. Our estimate: a shared core of 2 GHz or so
# took 16 microseconds for those of a block of 64 hidden numbers, and a server's core does nothing else.
OPERATOR_SECONDS = 3e-6


@dataclass(frozen=True)
class Times:
    """Seconds of a step. Communication that overlaps computation is not counted."""

    compute: float
    recompute: float  # of activations that were not kept
    bubble: float  # ranks of the pipeline wait for the first and after the last micro-batch
    states: float  # parameters and gradients that come too late to be hidden
    tensor: float
    context: float
    pipeline: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def step_time(shape: Shape, layout: Layout, step: OptimizerStep, device: Device) -> tuple[Times, list[Collective]]:
    """Seconds of a step, set by the slowest rank of the pipeline, and the collectives of that rank."""
    even = shape.layers % layout.stages == 0  # then a rank in the middle has no more to do than the first
    ranks = sorted({0, layout.pp - 1} if even else {0, layout.pp // 2, layout.pp - 1})
    rank_times = [_rank_time(shape, layout, step, device, rank) for rank in ranks]
    return max(rank_times, key=lambda pair: pair[0].total)


def _rank_time(
    shape: Shape, layout: Layout, step: OptimizerStep, device: Device, rank: int
) -> tuple[Times, list[Collective]]:
    held, micros = pieces(shape, layout, rank, step.scalar), step.micros(layout)
    forward, backward = _compute(shape, layout, step, device, held)
    again = _recompute(shape, layout, step, device, held)
    states = state_traffic(layout, step, held)
    moved = activation_traffic(shape, layout, step, held)
    over = _overheads(layout, device, held.blocks * micros)
    waits = {
        kind: over[kind] + sum(c.seconds(device) for c in moved if c.kind == kind)
        for kind in ("tensor", "context", "pipeline")
    }
    waits["context"] = max(0.0, waits["context"] - _beside_messages(shape, layout, step, device, held))
    # Narayanan et al., arXiv 2104.04473 section 2.2: (p - 1) / (v m) of the time of a rank's own micro-batches.
    busy = forward + backward + again + sum(waits.values())
    bubble = busy * (layout.pp - 1) / (layout.virtual_stages * micros) * _idle(device)
    times = Times(
        compute=forward + backward,
        recompute=again,
        bubble=bubble,
        states=over["states"] + _exposed(states, {"forward": forward, "backward": backward + again}, micros, device),
        optimizer=OPTIMIZER_BYTES * -(-held.all // layout.optimizer_group) / device.memory_rate,
        **waits,
    )
    return times, [*states, *moved]


def _overheads(layout: Layout, device: Device, blocks: int) -> dict[str, float]:
    """Measured seconds of dispatch and hooks of `blocks` passes through a block, by field of `Times`."""
    kinds = {
        "states": "shards" if layout.parameters != "replica" else "",
        "tensor": ("sequence" if layout.sequence_parallel else "tensor") if layout.tp > 1 else "",
        "context": "context" if layout.cp > 1 else "",
        "pipeline": "",
    }
    return {part: blocks * device.overheads.get(kind, 0.0) for part, kind in kinds.items()}


def _beside_messages(shape: Shape, layout: Layout, step: OptimizerStep, device: Device, held: Pieces) -> float:
    """Seconds of attention that run while keys and values travel around a ring, forward and backward."""
    if layout.cp_kind != "ring" or layout.cp == 1 or not device.overlap:
        return 0.0
    attention = 3 * 4 * shape.heads * shape.head_dim * step.context / 2 / layout.tp
    peak = device.peak_flops / (1 if step.precision == "bf16" else 2) / device.ranks_a_core
    seconds = held.blocks * step.micros(layout) * step.rows(layout) * attention / (peak * device.attainable)
    return seconds * (layout.cp - 1) / layout.cp  # nothing arrives in the last round


def _idle(device: Device) -> float:
    """Share of a wait that computes nothing.

    While a pipeline fills or drains half of its ranks work, on average; where ranks share cores, those work faster
    meanwhile. With two ranks a core nothing is lost: 2 max(1/2, 1/s) - 1.
    """
    return max(0.0, 2 / device.ranks_a_core - 1)


def _compute(shape: Shape, layout: Layout, step: OptimizerStep, device: Device, held: Pieces) -> tuple[float, float]:
    """Seconds of all forwards and all backwards of a rank: causal attention, for the kernels compute that."""
    micros = step.micros(layout)
    tokens = step.rows(layout) * micros
    head = 6 * held.head * tokens / (device.peak(step.precision) * (device.attainable_head or device.attainable))
    blocks = 3 * _block_forwards(shape, layout, step, device, held)
    # The loss leaves the head's gradients in the forward; that of GPipe computes its chunks' logits twice.
    again = head / 3 if layout.schedule == "gpipe" and layout.pp > 1 else 0.0
    return blocks / 3 + head, blocks * 2 / 3 + again


def _block_forwards(shape: Shape, layout: Layout, step: OptimizerStep, device: Device, held: Pieces) -> float:
    """Seconds of the forwards of all blocks of a rank; their backwards take twice as long.

    Slices of a context are cut so that each sees the mean number of keys. Where `device.attainable` is that of compiled
    blocks, a block that is not compiled moves its pointwise operands through memory on top. The host runs ahead of the
    device, so that the slower of the two sets the pace.
    """
    attention = 4 * shape.heads * shape.head_dim * step.context / 2 / layout.tp
    per_token = 2 * block_matrices(shape) / layout.tp + attention
    once = step.rows(layout) * per_token / (device.peak(step.precision) * device.attainable)
    if device.compiled:
        if not layout.compile:
            once += step.rows(layout) * _pointwise(shape, layout) * step.width / device.memory_rate
        operators = OPERATORS - (BLOCK_OPERATORS - COMPILED_OPERATORS if layout.compile else 0)
        once = max(once, OPERATOR_SECONDS * operators / 3)
    return held.blocks * step.micros(layout) * (once + device.block_seconds / 3)


def _pointwise(shape: Shape, layout: Layout) -> float:
    """Numbers a token that the forward of a block reads and writes outside matrix products and attention: two norms
    and residuals, queries and keys to rotate, silu(gate) and its product with up."""
    rotated = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    whole = 6 * shape.hidden / (layout.tp if layout.sequence_parallel else 1)
    return whole + (rotated + 5 * shape.mlp_hidden) / layout.tp


def _recompute(shape: Shape, layout: Layout, step: OptimizerStep, device: Device, held: Pieces) -> float:
    """Seconds of recomputation. full: the blocks' forwards once more without w2, whose result no backward needs.
    selective: everything but matrix products and attention, limited by the memory's rate."""
    if layout.recompute == "none":
        return 0.0
    rows = held.blocks * step.micros(layout) * step.rows(layout)
    if layout.recompute == "full":
        attained = device.peak(step.precision) * device.attainable
        last = rows * 2 * shape.hidden * shape.mlp_hidden / layout.tp / attained
        return _block_forwards(shape, layout, step, device, held) - last
    return rows * _pointwise(shape, layout) * step.width / device.memory_rate


def _exposed(states: list[Collective], compute: dict[str, float], micros: int, device: Device) -> float:
    """Seconds of parameter and gradient traffic that no computation hides.

    Traffic of blocks overlaps the forward or backward in which it occurs, one collective after the other; that of
    embedding and head comes before the first block and after the last. FSDP2 could use two links at once: not counted.
    """
    hideable = [c for c in states if c.hideable and device.overlap]
    exposed = sum(c.seconds(device) for c in states if c not in hideable)
    for phase, seconds in compute.items():
        blocks = [c for c in hideable if c.phase == phase]
        usual = sum(c.seconds(device) / micros for c in blocks if c.micros == micros)
        once = sum(c.seconds(device) for c in blocks if c.micros != micros)  # in the first or the last micro-batch
        room = seconds / micros
        exposed += (micros - 1) * max(0.0, usual - room) + max(0.0, usual + once - room)
    return exposed
