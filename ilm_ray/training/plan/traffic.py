"""What ranks send each other in a step: volume by kind, and how long it takes."""

import functools
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Shape
from ilm_ray.training.plan.devices import Device, Group
from ilm_ray.training.plan.step import Pieces, Step

Kind = Literal["parameters", "gradients", "copies", "tensor", "context", "pipeline"]
Phase = Literal["forward", "backward"]
Operation = Literal["gather", "scatter", "all_reduce", "all_to_all", "send"]
PHASES: tuple[Phase, ...] = get_args(Phase)


def sent(operation: Operation, ranks: int, size: float) -> float:
    """Bytes that each of `ranks` ranks sends (ring algorithms); size: as `Collective.size`."""
    others = (ranks - 1) / ranks
    return {"all_reduce": 2 * others, "send": 1.0}.get(operation, others) * size


def hops(operation: Operation, ranks: int) -> int:
    """Messages of a rank one after the other (ring algorithms)."""
    return {"all_reduce": 2 * (ranks - 1), "send": 1}.get(operation, ranks - 1)


@dataclass(frozen=True)
class Collective:
    """`times` times the same in a step. `size`: bytes of the whole: gathered, reduced, or exchanged by one rank.

    micros: micro-batches among which they are spread; hideable: a block can compute meanwhile.
    """

    kind: Kind
    operation: Operation
    group: Group
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
        """Latency and transfer one after the other, as NCCL estimates its own (src/graph/tuning.cc)."""
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
        return Group(2, self.group.stride).ring_latency(device)  # every rank sends to every other at once


def state_traffic(layout: Layout, step: Step, held: Pieces) -> list[Collective]:
    """FSDP2's: parameters gathered for forward and backward, gradients reduced to shares, shares of copies added up.

    Blocks and root are collectives of their own: only those of blocks have something to hide behind.
    """
    micros = step.micros(layout)
    shares = Group(layout.optimizer_group, layout.tp)
    copies = Group(layout.sharding_ranks // shares.size, layout.tp * shares.size)
    # Between forward and backward a parameter may be split less far.
    between = Group(layout.shard_group, layout.tp) if layout.parameters == "partial" else shares
    forwards = 1 if layout.parameters == "replica" else micros
    reductions = 1 if layout.gradients == "replica" else micros
    found: list[Collective] = []

    def add(kind: Kind, operation: Operation, group: Group, size: float, phase: Phase, over: int, block: bool) -> None:
        units = held.blocks if block else 1
        if size and units and group.size > 1:
            found.append(Collective(kind, operation, group, size, units * over, phase, over, block))

    for size, block in ((held.block, True), (held.root, False)):
        add("parameters", "gather", shares, step.width * size, "forward", forwards, block)
        if block and layout.parameters != "replica":  # the root stays whole
            add("parameters", "gather", between, step.width * size, "backward", micros, block)
        add("gradients", "scatter", shares, 4 * size, "backward", reductions, block)
        add("copies", "all_reduce", copies, 4 * size / shares.size, "backward", 1, block)
    return found


def activation_traffic(shape: Shape, layout: Layout, step: Step, held: Pieces) -> list[Collective]:
    """Of tensor, context and pipeline parallelism: in the way of the computation, which waits for it.

    Blocks that are computed again in the backward exchange again what they did in the forward.
    """
    context, tensor = _context(shape, layout, step, held), _tensor_blocks(shape, layout, step, held)
    again = [replace(c, phase="backward") for c in context if c.phase == "forward" and layout.recompute != "none"]
    return context + again + tensor + _tensor_ends(shape, layout, step, held) + _pipeline(shape, layout, step)


def _tensor_blocks(shape: Shape, layout: Layout, step: Step, held: Pieces) -> list[Collective]:
    """Of attention and MLP (arXiv 1909.08053 section 3; with sequence parallelism arXiv 2205.05198 section 4.2.2)."""
    each = functools.partial(_of_hidden, shape, layout, step)
    # Computed again: what is gathered for wqkv, w1 and w3; with `full` also the sum after wo, not that after w2.
    gathered = 2 * held.blocks if layout.recompute != "none" else 0
    summed = held.blocks if layout.recompute == "full" else 0
    if layout.tp == 1:
        return []
    if layout.sequence_parallel:
        # wo and w2 scatter rows, before wqkv and w1/w3 they are gathered; backward the other way round.
        found = [each(o, p, 2 * held.blocks) for p in PHASES for o in ("gather", "scatter")]
        return [*found, each("gather", "backward", gathered), each("scatter", "backward", summed)]
    # Backward three: w1 and w3 each add up the gradient of what they share.
    return [each("all_reduce", "forward", 2 * held.blocks), each("all_reduce", "backward", 3 * held.blocks + summed)]


def _tensor_ends(shape: Shape, layout: Layout, step: Step, held: Pieces) -> list[Collective]:
    """Of embedding and head."""
    each = functools.partial(_of_hidden, shape, layout, step)
    found: list[Collective] = []
    if layout.tp > 1 and held.embedding:
        found += (
            [each("scatter", "forward", 1), each("gather", "backward", 1)]
            if layout.sequence_parallel
            else [each("all_reduce", "forward", 1)]
        )
    if layout.tp > 1 and held.head:
        found += [each("gather", "forward", 1)] * layout.sequence_parallel
        # The gradient of the head's input, all at once; chunk by chunk with GPipe.
        chunks = -(-step.rows(layout) // step.loss_chunk) if layout.schedule == "gpipe" and layout.pp > 1 else 1
        found.append(each("all_reduce", "forward", chunks, 1 / chunks))
    return found


def _of_hidden(
    shape: Shape, layout: Layout, step: Step, operation: Operation, phase: Phase, times: int, part: float = 1
) -> Collective:
    """`times` a micro-batch, of its hidden states or a part of them, over tensor-parallel ranks."""
    size, micros = step.rows(layout) * shape.hidden * step.width * part, step.micros(layout)
    return Collective("tensor", operation, Group(layout.tp, 1), size, times * micros, phase, micros)


def _context(shape: Shape, layout: Layout, step: Step, held: Pieces) -> list[Collective]:
    """Ulysses (arXiv 2309.14509 section 3): queries, keys, values one way, results the other. Gather: keys, values."""
    if layout.cp == 1:
        return []
    group, micros = Group(layout.cp, layout.tp), step.micros(layout)
    times = held.blocks * micros
    row = step.rows(layout) * shape.head_dim * step.width // layout.tp
    if layout.cp_kind == "gather":
        size = row * 2 * shape.kv_heads * layout.cp
        return [
            Collective("context", "gather", group, size, times, "forward", micros),
            Collective("context", "scatter", group, size, times, "backward", micros),
        ]
    sizes = row * (shape.heads + 2 * shape.kv_heads), row * shape.heads
    return [
        Collective("context", "all_to_all", group, size, times, phase, micros)
        for size in sizes
        for phase in ("forward", "backward")
    ]


def _pipeline(shape: Shape, layout: Layout, step: Step) -> list[Collective]:
    """Hidden states to the next stage, their gradients back; a rank in the middle of the pipeline."""
    if layout.pp == 1:
        return []
    assert layout.dp is not None
    group = Group(layout.pp, layout.dp * layout.cp * layout.tp)
    size = step.rows(layout) * shape.hidden * step.width / (layout.tp if layout.sequence_parallel else 1)
    micros = step.micros(layout)
    times = micros * layout.virtual_stages
    return [
        Collective("pipeline", "send", group, size, times, "forward", micros),
        Collective("pipeline", "send", group, size, times, "backward", micros),
    ]
