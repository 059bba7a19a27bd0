"""The collectives of a step: their bytes by kind, and their predicted seconds."""

import functools
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import Device, RankGroup
from ilm_ray.training.plan.step import OptimizerStep, Pieces

Kind = Literal["parameters", "gradients", "copies", "tensor", "context", "pipeline"]
Phase = Literal["forward", "backward"]
Operation = Literal["gather", "scatter", "all_reduce", "all_to_all", "send"]
PHASES: tuple[Phase, ...] = get_args(Phase)


def sent(operation: Operation, ranks: int, size: float) -> float:
    """Bytes that each of `ranks` ranks sends (ring algorithms); size: as `Collective.size`."""
    others = (ranks - 1) / ranks
    return {"all_reduce": 2 * others, "send": 1.0}.get(operation, others) * size


def hops(operation: Operation, ranks: int) -> int:
    """Consecutive messages of a rank (ring algorithms)."""
    return {"all_reduce": 2 * (ranks - 1), "send": 1}.get(operation, ranks - 1)


@dataclass(frozen=True)
class Collective:
    """A collective that runs `times` times in a step. `size`: bytes gathered, reduced, or exchanged by one rank.

    micros: micro-batches over which the runs are spread; hideable: a block can compute meanwhile.
    """

    kind: Kind
    operation: Operation
    group: RankGroup
    size: float
    times: int
    phase: Phase
    micros: int
    hideable: bool = False

    @property
    def sent(self) -> float:
        """Bytes that a rank sends in a step (ring algorithms)."""
        return self.times * sent(self.operation, self.group.size, self.size)

    def seconds(self, device: Device) -> float:
        """Latency plus transfer, as NCCL estimates its own collectives (src/graph/tuning.cc)."""
        measured = device.links.get(self.operation)
        if measured is not None and self.group.in_node(device) == self.group.size:
            return self.times * hops(self.operation, self.group.size) * measured.hop + self.sent / measured.rate
        direct = self.operation in ("all_to_all", "send")
        rate = self.group.direct_rate(device) if direct else self.group.ring_rate(device)
        return self.times * self._latency(device) + self.sent / rate

    def _latency(self, device: Device) -> float:
        if self.operation == "all_reduce":
            return min(2 * self.group.ring_latency(device), self.group.tree_latency(device))
        if self.operation in ("gather", "scatter"):
            return self.group.ring_latency(device)
        return RankGroup(2, self.group.stride).ring_latency(device)  # every rank sends to every other at once


def state_traffic(layout: Layout, step: OptimizerStep, held: Pieces) -> list[Collective]:
    """FSDP2 gathers parameters for forward and backward, reduces gradients to shares and sums the shares of copies.

    Embedding, blocks and head have collectives of their own. Only those of blocks can overlap computation: the
    embedding comes before the first of them and after the last, the head's parameters are counted with it.
    """
    micros = step.micros(layout)
    shares = RankGroup(layout.optimizer_group, layout.tp)
    copies = RankGroup(layout.sharding_ranks // shares.size, layout.tp * shares.size)
    # Between forward and backward a partial parameter is split over a smaller group.
    between = RankGroup(layout.shard_group, layout.tp) if layout.parameters == "partial" else shares
    forwards = 1 if layout.parameters == "replica" else micros
    # torch's pipeline schedules split nothing again after a backward: a block then is whole for the next forward, or
    # for the next backward where there is none.
    backwards = 0 if layout.parameters == "replica" else micros if layout.pp == 1 else 1
    reductions = 1 if layout.gradients == "replica" else micros
    collectives: list[Collective] = []

    def add(
        kind: Kind, operation: Operation, group: RankGroup, size: float, phase: Phase, over: int, block: bool
    ) -> None:
        units = held.blocks if block else 1
        if size and units and over and group.size > 1:
            collectives.append(Collective(kind, operation, group, size, units * over, phase, over, block))

    units = ((held.block, True, forwards), (held.embedding, False, forwards),
             # The head stays whole until its backward, and beyond that in a pipeline.
             (held.head + held.norm, False, forwards if layout.pp == 1 else 1))  # fmt: skip
    for size, block, gathers in units:
        add("parameters", "gather", shares, step.width * size, "forward", gathers, block)
        if block:  # the embedding's gradient needs no weights
            add("parameters", "gather", between, step.width * size, "backward", backwards, block)
        add("gradients", "scatter", shares, 4 * size, "backward", reductions, block)
        add("copies", "all_reduce", copies, 4 * size / shares.size, "backward", 1, block)
    return collectives


def activation_traffic(shape: Shape, layout: Layout, step: OptimizerStep, held: Pieces) -> list[Collective]:
    """Collectives of tensor, context and pipeline parallelism. The computation waits for each of them.

    Blocks that are recomputed in the backward repeat the collectives of their forward.
    """
    context, tensor = _context(shape, layout, step, held), _tensor_blocks(shape, layout, step, held)
    # Selective recomputation keeps the output of ring attention.
    repeated = layout.recompute == "full" or (layout.recompute == "selective" and layout.cp_kind != "ring")
    again = [replace(c, phase="backward") for c in context if c.phase == "forward" and repeated]
    return context + again + tensor + _tensor_ends(shape, layout, step, held) + _pipeline(shape, layout, step)


def _tensor_blocks(shape: Shape, layout: Layout, step: OptimizerStep, held: Pieces) -> list[Collective]:
    """Attention and MLP (arXiv 1909.08053 section 3; with sequence parallelism arXiv 2205.05198 section 4.2.2)."""
    each = functools.partial(_of_hidden, shape, layout, step)
    # Recomputation repeats the gathers before wqkv, w1 and w3; `full` also the sum after wo, not that after w2.
    gathered = 2 * held.blocks if layout.recompute != "none" else 0
    summed = held.blocks if layout.recompute == "full" else 0
    if layout.tp == 1:
        return []
    if layout.sequence_parallel:
        # Rows are scattered after wo and w2 and gathered before wqkv and w1/w3; the backward swaps the two.
        collectives = [each(o, p, 2 * held.blocks) for p in PHASES for o in ("gather", "scatter")]
        return [*collectives, each("gather", "backward", gathered), each("scatter", "backward", summed)]
    # Three in the backward: w1 and w3 each sum the gradient of the input that they share.
    return [each("all_reduce", "forward", 2 * held.blocks), each("all_reduce", "backward", 3 * held.blocks + summed)]


def _tensor_ends(shape: Shape, layout: Layout, step: OptimizerStep, held: Pieces) -> list[Collective]:
    """Embedding and head."""
    each = functools.partial(_of_hidden, shape, layout, step)
    collectives: list[Collective] = []
    tied = shape.tied and layout.pp == 1 and not step.scalar  # the embedding counts as the head
    if layout.tp > 1 and (held.embedding or tied):
        collectives += (
            [each("scatter", "forward", 1), each("gather", "backward", 1)]
            if layout.sequence_parallel
            else [each("all_reduce", "forward", 1)]
        )
    if layout.tp > 1 and held.head:
        collectives += [each("gather", "forward", 1)] * layout.sequence_parallel
        # The gradient of the head's input is summed at once; with GPipe chunk by chunk.
        chunks = -(-step.rows(layout) // step.loss_chunk) if layout.schedule == "gpipe" and layout.pp > 1 else 1
        collectives.append(each("all_reduce", "forward", chunks, 1 / chunks))
    return collectives


def _of_hidden(
    shape: Shape, layout: Layout, step: OptimizerStep, operation: Operation, phase: Phase, times: int, part: float = 1
) -> Collective:
    """A collective of the hidden states, or a part of them, over tensor-parallel ranks, `times` times a micro-batch."""
    size, micros = step.rows(layout) * shape.hidden * step.width * part, step.micros(layout)
    return Collective("tensor", operation, RankGroup(layout.tp, 1), size, times * micros, phase, micros)


def _context(shape: Shape, layout: Layout, step: OptimizerStep, held: Pieces) -> list[Collective]:
    """Ulysses (arXiv 2309.14509 section 3) exchanges queries, keys, values, and results; gather keys and values.

    In a ring (arXiv 2310.01889) keys and values visit all other ranks, and in the backward their gradients, in at least
    fp32, come home after that.
    """
    if layout.cp == 1:
        return []
    group, micros = RankGroup(layout.cp, layout.tp), step.micros(layout)
    times = held.blocks * micros
    row = step.rows(layout) * shape.head_dim * step.width // layout.tp
    if layout.cp_kind == "gather":
        size = row * 2 * shape.kv_heads * layout.cp
        return [
            Collective("context", "gather", group, size, times, "forward", micros),
            Collective("context", "scatter", group, size, times, "backward", micros),
        ]
    if layout.cp_kind == "ring":
        pair = row * 2 * shape.kv_heads
        visits = times * (layout.cp - 1)
        return [
            Collective("context", "send", group, pair, visits, "forward", micros),
            Collective("context", "send", group, pair, visits, "backward", micros),
            Collective("context", "send", group, pair * 4 / step.width, times * layout.cp, "backward", micros),
        ]
    sizes = row * (shape.heads + 2 * shape.kv_heads), row * shape.heads
    return [
        Collective("context", "all_to_all", group, size, times, phase, micros)
        for size in sizes
        for phase in ("forward", "backward")
    ]


def _pipeline(shape: Shape, layout: Layout, step: OptimizerStep) -> list[Collective]:
    """A rank in the middle of the pipeline sends hidden states to the next stage and their gradients back."""
    if layout.pp == 1:
        return []
    assert layout.dp is not None
    group = RankGroup(layout.pp, layout.dp * layout.cp * layout.tp)
    size = step.rows(layout) * shape.hidden * step.width / (layout.tp if layout.sequence_parallel else 1)
    micros = step.micros(layout)
    times = micros * layout.virtual_stages
    return [
        Collective("pipeline", "send", group, size, times, "forward", micros),
        Collective("pipeline", "send", group, size, times, "backward", micros),
    ]
