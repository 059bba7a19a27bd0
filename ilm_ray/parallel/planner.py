"""Which layout is fastest and fits: all layouts, what each needs, and how long a step of it would take (predictions).

The report names an execution simulator that picks the plan (section 2.1) and publishes nothing of it; this one is ours.
"""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from ilm_ray.errors import UserError
from ilm_ray.model.internlm2 import Shape
from ilm_ray.parallel.devices import Device
from ilm_ray.parallel.layout import Layout, Share
from ilm_ray.parallel.memory import Memory, peak_memory
from ilm_ray.parallel.step import Step, block_matrices, flops_per_token, pieces
from ilm_ray.parallel.traffic import Collective, activation_traffic, state_traffic


@dataclass(frozen=True)
class Times:
    """Seconds of a step. What communication hides behind the computation is in neither."""

    compute: float
    bubble: float  # ranks of the pipeline wait for the first and after the last micro-batch
    states: float  # parameters and gradients that come too late to be hidden
    tensor: float
    context: float
    pipeline: float

    @property
    def total(self) -> float:
        return self.compute + self.bubble + self.states + self.tensor + self.context + self.pipeline


@dataclass(frozen=True)
class Plan:
    """A layout on its devices, and what is predicted of it."""

    layout: Layout
    step: Step
    memory: Memory
    times: Times
    sent: dict[str, float]  # bytes that a device sends in a step, by kind
    tokens_per_second: float  # a device
    mfu: float  # keys that lie ahead are counted
    mfu_causal: float  # they are not
    limit: str  # compute, or what takes most time beside it where that is a tenth of the step or more


def layouts(shape: Shape, devices: int, groups: Sequence[int]) -> Iterator[Layout]:
    """Every layout that `Layout` accepts for this model and number of devices, one of each kind that differs in effect.

    A partial state is split over `groups` ranks. Interleaved stages have the same number of layers, and one block is
    gathered ahead.
    """
    for tp, pp, cp in itertools.product(_divisors(devices), repeat=3):
        if devices % (tp * pp * cp):
            continue
        for sequence, kind, (schedule, virtual), states in itertools.product(
            (False, True) if tp > 1 else (False,),
            ("ulysses", "gather") if cp > 1 else ("ulysses",),
            _schedules(shape.layers, pp),
            _states(devices // (tp * pp), groups, pp),
        ):
            try:
                layout = Layout(
                    tp=tp, sequence_parallel=sequence, pp=pp, schedule=schedule, virtual_stages=virtual, cp=cp,
                    cp_kind=kind, **states,
                ).on(devices)  # fmt: skip
                layout.require_model(shape, shape.vocab_size)
            except UserError:
                continue
            yield layout


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _schedules(layers: int, pp: int) -> list[tuple[str, int]]:
    if pp == 1:
        return [("1f1b", 1)]
    interleaved = [("interleaved", v) for v in range(2, layers // pp + 1) if layers % (pp * v) == 0]
    return [("gpipe", 1), ("1f1b", 1), *interleaved]


def _states(ranks: int, groups: Sequence[int], pp: int) -> list[dict[str, Any]]:
    """Ways to share the three states out to `ranks`; those that Layout refuses too."""
    if ranks == 1:
        return [{"parameters": "replica", "gradients": "replica", "optimizer": "replica"}]
    found: list[dict[str, Any]] = []
    groups = [group for group in groups if 1 < group < ranks and ranks % group == 0]
    for states in _shares():
        if pp == 1 or states["gradients"] == "replica":
            partial = "partial" in states.values()
            found += [states | {"shard_group": group} for group in groups] if partial else [states]
    return found


@functools.cache
def _shares() -> list[dict[str, str]]:
    """The shares of parameters, gradients and optimizer states that Layout accepts together."""
    found = []
    for shares in itertools.product(get_args(Share), repeat=3):
        states = dict(zip(("parameters", "gradients", "optimizer"), shares, strict=True))
        with contextlib.suppress(UserError):
            Layout(**states)
            found.append(states)
    return found


def predict(shape: Shape, layout: Layout, step: Step, device: Device) -> Plan:
    """What a step of `layout`, with its `dp` known, would need. Raises UserError where the batch cannot be shared."""
    layout.require_batch("this batch", step.sequences, step.at_once)
    memory = peak_memory(shape, layout, step, device.fused)
    times, traffic = step_time(shape, layout, step, device)
    sent: dict[str, float] = {}
    for collective in traffic:
        sent[collective.kind] = sent.get(collective.kind, 0.0) + collective.sent
    speed = step.tokens / times.total / (layout.replica_ranks * (layout.dp or 1))
    mfu, mfu_causal = (
        speed * flops_per_token(shape, step.context, causal) / device.peak_flops for causal in (False, True)
    )
    return Plan(layout, step, memory, times, sent, speed, mfu, mfu_causal, _limit(times, traffic, device))


def _limit(times: Times, traffic: list[Collective], device: Device) -> str:
    waits = {kind: seconds for kind, seconds in vars(times).items() if kind != "compute"}
    worst = max(waits, key=lambda kind: waits[kind])
    if waits[worst] < 0.1 * times.total:
        return "compute"
    if worst != "states":
        return worst
    kinds = ("parameters", "gradients", "copies")
    return max(kinds, key=lambda kind: sum(c.seconds(device) for c in traffic if c.kind == kind))


def step_time(shape: Shape, layout: Layout, step: Step, device: Device) -> tuple[Times, list[Collective]]:
    """Seconds of a step, set by the slowest rank of the pipeline, and what that rank sends."""
    even = shape.layers % layout.stages == 0  # then a rank in the middle has no more to do than the first
    ranks = sorted({0, layout.pp - 1} if even else {0, layout.pp // 2, layout.pp - 1})
    found = [_rank_time(shape, layout, step, device, rank) for rank in ranks]
    return max(found, key=lambda pair: pair[0].total)


def _rank_time(shape: Shape, layout: Layout, step: Step, device: Device, rank: int) -> tuple[Times, list[Collective]]:
    held, micros = pieces(shape, layout, rank), step.micros(layout)
    forward, backward = _compute(shape, layout, step, device, rank)
    states = state_traffic(layout, step, held)
    moved = activation_traffic(shape, layout, step, held)
    waits = {
        kind: sum(c.seconds(device) for c in moved if c.kind == kind) for kind in ("tensor", "context", "pipeline")
    }
    compute = forward + backward
    # Narayanan et al., arXiv 2104.04473 section 2.2: (p - 1) / (v m) of the time of a rank's own micro-batches.
    busy = compute + sum(waits.values())
    bubble = busy * (layout.pp - 1) / (layout.virtual_stages * micros)
    exposed = _exposed(states, {"forward": forward, "backward": backward}, micros, device)
    return Times(compute=compute, bubble=bubble, states=exposed, **waits), [*states, *moved]


def _compute(shape: Shape, layout: Layout, step: Step, device: Device, rank: int) -> tuple[float, float]:
    """Seconds of all forwards and all backwards of a rank: causal attention, for that is what the kernels compute.

    With cp_kind=gather the last rank's slice sees nearly all keys, twice the mean.
    """
    held = pieces(shape, layout, rank)
    tokens = step.rows(layout) * step.micros(layout)
    attention = 12 * shape.heads * shape.head_dim * step.context / 2 / layout.tp
    if layout.cp_kind == "gather":
        attention *= 2 - 1 / layout.cp
    block = 6 * block_matrices(shape) / layout.tp + attention
    per_token = held.blocks * block + 6 * held.head
    rate = device.peak_flops * device.attainable / (1 if step.precision == "bf16" else 2)
    again = 2 * held.head if step.rows(layout) > step.loss_chunk else 0  # the loss computes its chunks' logits twice
    return tokens * per_token / 3 / rate, tokens * (per_token * 2 / 3 + again) / rate


def _exposed(states: list[Collective], compute: dict[str, float], micros: int, device: Device) -> float:
    """Seconds of parameters and gradients that nothing hides.

    Those of blocks hide behind the forward or backward in which they occur, one after the other; those of embedding and
    head come before the first block and after the last. FSDP2 could have two at once over different links: not counted.
    """
    exposed = sum(c.seconds(device) for c in states if not c.hideable)
    for phase, seconds in compute.items():
        blocks = [c for c in states if c.hideable and c.phase == phase]
        usual = sum(c.seconds(device) / micros for c in blocks if c.micros == micros)
        once = sum(c.seconds(device) for c in blocks if c.micros != micros)  # in the first or the last micro-batch
        room = seconds / micros
        exposed += (micros - 1) * max(0.0, usual - room) + max(0.0, usual + once - room)
    return exposed


@dataclass(frozen=True)
class Ranking:
    """Plans that fit, fastest first, and what was left out: why, and how often."""

    plans: list[Plan]
    left_out: Counter[str]


def rank(shape: Shape, devices: int, device: Device, step: Step) -> Ranking:
    """All layouts of `devices` devices for `step`, each with the micro-batch (`at_once`, a power of two) that suits it.

    Left out is what needs more than the device's memory, or cannot share the batch out. Partial states are split over
    as many ranks as a node has devices.
    """
    plans, left_out = [], Counter[str]()
    for layout in layouts(shape, devices, (device.node_devices,)):
        if not _worth_a_look(layout, step):
            continue
        found, reason = _best(shape, layout, step, device)
        if found is None:
            left_out[reason] += 1
        else:
            plans.append(found)
    plans.sort(key=lambda plan: (-plan.tokens_per_second, plan.memory.total))
    return Ranking(plans, left_out)


def _worth_a_look(layout: Layout, step: Step) -> bool:
    """GPipe is as fast as 1F1B and needs more memory; many small stages and short slices only add messages."""
    return layout.schedule != "gpipe" and layout.virtual_stages <= 4 and layout.cp * 1024 <= max(1024, step.context)


def _best(shape: Shape, layout: Layout, step: Step, device: Device) -> tuple[Plan | None, str]:
    """The layout's fastest plan that fits, or the reason why there is none."""
    best, reason, at_once = None, "", 1
    while at_once == 1 or at_once * (layout.dp or 1) <= step.sequences:
        tried = replace(step, at_once=at_once)
        try:
            layout.require_batch("batch", step.sequences, at_once)
        except UserError as error:
            reason = reason or _short(str(error))
            break
        if peak_memory(shape, layout, tried, device.fused).total > device.usable_memory:
            reason = "does not fit into memory"
            break
        plan = predict(shape, layout, tried, device)
        if best is not None and plan.tokens_per_second <= best.tokens_per_second:
            break  # larger micro-batches save gathers until the bubble grows
        best = plan
        at_once *= 2
    return best, reason


def _short(message: str) -> str:
    return "the batch has too few sequences for dp" if "shared out" in message else "too few micro-batches for pp"
