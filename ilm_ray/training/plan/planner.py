"""Finds the fastest layout that fits: predicts the memory and the step time of each.

The report names an execution simulator that picks the plan (section 2.1) and publishes nothing of it; this one is ours.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.candidates import layouts
from ilm_ray.training.plan.devices import GIB, Device
from ilm_ray.training.plan.memory import Memory, peak_memory
from ilm_ray.training.plan.step import OptimizerStep, flops_per_token
from ilm_ray.training.plan.timing import Times, step_time
from ilm_ray.training.plan.traffic import Collective

# Speeds that differ by less are alike, for a prediction is not that good: of such micro-batches the larger is taken,
# which leaves the host more time to launch it, as long as it leaves some of the memory that may be used. Our figures.
TIE, TIE_ROOM = 0.005, 0.9
# Seconds that torch.compile takes for the blocks of a layout, once; it must save more. Our estimate.
COMPILE_SECONDS = 60.0


@dataclass(frozen=True)
class LayoutPlan:
    """A layout on its devices, with its predicted memory, time and speed."""

    layout: Layout
    step: OptimizerStep
    memory: Memory
    times: Times
    sent: dict[str, float]  # bytes that a device sends in a step, by kind
    tokens_per_second: float  # a device
    mfu: float  # keys that lie ahead are counted; recomputation is not
    mfu_causal: float  # neither is
    limit: str  # compute, or the longest wait where it is a tenth of the step or more


def predict(shape: Shape, layout: Layout, step: OptimizerStep, device: Device) -> LayoutPlan:
    """Predict a step of `layout`, whose `dp` is known. Raises UserError where the batch cannot be shared."""
    layout.require_batch("this batch", step.sequences, step.at_once)
    memory = peak_memory(shape, layout, step, device.fused)
    times, traffic = step_time(shape, layout, step, device)
    sent: dict[str, float] = {}
    for collective in traffic:
        sent[collective.kind] = sent.get(collective.kind, 0.0) + collective.sent
    speed = step.tokens / times.total / ranks_of(layout)
    mfu, mfu_causal = (
        speed * flops_per_token(shape, step.context, causal, step.scalar) / device.peak_flops
        for causal in (False, True)
    )
    return LayoutPlan(layout, step, memory, times, sent, speed, mfu, mfu_causal, _limit(times, traffic, device))


def ranks_of(layout: Layout) -> int:
    """Ranks of a layout whose `dp` is known."""
    assert layout.dp is not None
    return layout.dp * layout.replica_ranks


def _limit(times: Times, traffic: list[Collective], device: Device) -> str:
    waits = {kind: seconds for kind, seconds in vars(times).items() if kind != "compute"}
    worst = max(waits, key=lambda kind: waits[kind])
    if waits[worst] < 0.1 * times.total:
        return "compute"
    if worst != "states":
        return worst
    kinds = ("parameters", "gradients", "copies")
    return max(kinds, key=lambda kind: sum(c.seconds(device) for c in traffic if c.kind == kind))


@dataclass(frozen=True)
class Ranking:
    """Plans that fit, fastest first; left_out: reason -> number of layouts left out for it."""

    plans: list[LayoutPlan]
    left_out: Counter[str]


def rank(shape: Shape, devices: int, device: Device, step: OptimizerStep) -> Ranking:
    """Rank all layouts of `devices` devices for `step`, each planned by `plan_work`.

    Layouts that need more than the device's memory, or cannot share the batch out, are left out. Partial states are
    split over as many ranks as a node has devices.
    """
    plans, left_out = list[LayoutPlan](), Counter[str]()
    work = Workload(step)
    for layout in candidates(shape, devices, device, [work]):
        try:
            plans += plan_work(shape, layout, device, [work]).plans
        except NoPlan as error:
            left_out[str(error)] += 1
    plans.sort(key=lambda plan: (-plan.tokens_per_second, plan.memory.total))
    return Ranking(plans, left_out)


def candidates(shape: Shape, ranks: int, device: Device, works: Sequence["Workload"]) -> Iterator[Layout]:
    """The layouts that are looked at, compiled where the device's speed is that of compiled blocks."""
    for layout in layouts(shape, ranks, (device.node_devices,)):
        if worth_trying(layout, works):
            yield layout.model_copy(update={"compile": device.compiled})


def worth_trying(layout: Layout, works: Sequence["Workload"]) -> bool:
    """GPipe is as fast as 1F1B and needs more memory; many small stages and short slices only add messages.

    A pipeline wants equal micro-batches, which a batch that is dealt out by tokens has not.
    """
    if layout.schedule == "gpipe" or layout.virtual_stages > 4 or (layout.pp > 1 and any(w.dealt for w in works)):
        return False
    return all(layout.cp * 1024 <= max(1024, work.step.context) for work in works)


class NoPlan(Exception):
    """A layout is impossible for a step; the message says why in a few words."""


@dataclass(frozen=True)
class Workload:
    """Optimizer steps of one kind, such as a phase. `step.at_once`: the most sequences of a micro-batch.

    least: the fewest. dealt: the batch is shared out by tokens, so that any number of replicas has a share of it.
    """

    step: OptimizerStep
    steps: int = 1
    least: int = 1
    dealt: bool = False

    def step_of(self, layout: Layout, at_once: int) -> OptimizerStep:
        """The step of a layout, whose `dp` is known, with micro-batches of `at_once` sequences.

        A batch that is dealt out has as many sequences as the replica with most of it, for each replica.
        """
        assert layout.dp is not None
        sequences = -(-self.step.sequences // layout.dp) * layout.dp if self.dealt else self.step.sequences
        return replace(self.step, sequences=sequences, at_once=at_once)

    def seconds(self, plan: "LayoutPlan") -> float:
        """Seconds of all steps in a plan; the sequences that `step_of` rounds a batch up by are not there."""
        return self.steps * plan.times.total * self.step.sequences / plan.step.sequences


def best_plan(shape: Shape, layout: Layout, work: Workload, device: Device) -> LayoutPlan:
    """The fastest plan of `layout`, its `dp` known: micro-batches of `work.least` sequences, twice, four times as many.

    Raises NoPlan where there is none.
    """
    best, fastest, at_once = None, 0.0, work.least
    share = work.step_of(layout, at_once).sequences // (layout.dp or 1)
    while at_once <= max(work.least, min(work.step.at_once, share)):
        step = work.step_of(layout, at_once)
        if step.sequences % (layout.dp or 1):
            raise NoPlan("the batch has too few sequences for dp")
        try:
            layout.require_batch("batch", step.sequences, at_once)
        except UserError:
            if best is None:
                raise NoPlan("too few micro-batches for pp") from None
            break
        if peak_memory(shape, layout, step, device.fused).total > device.usable_memory:
            break
        plan = predict(shape, layout, step, device)
        alike = plan.tokens_per_second <= (1 + TIE) * fastest
        if plan.tokens_per_second < (1 - TIE) * fastest:
            break  # larger micro-batches save gathers until the bubble grows
        if best is not None and alike and plan.memory.total > TIE_ROOM * device.usable_memory:
            break
        best, fastest = plan, max(fastest, plan.tokens_per_second)
        at_once *= 2
    if best is None:
        raise NoPlan("does not fit into memory")
    return best


@dataclass(frozen=True)
class Choice:
    """A layout for some workloads. `plans`: one a workload, with the micro-batch to use in `step.at_once`."""

    layout: Layout
    plans: tuple[LayoutPlan, ...]
    seconds: float  # of all workloads
    why: str  # one line: the prediction; `choose_layout` adds by how much it beats the next best

    @property
    def ranks(self) -> int:
        return ranks_of(self.layout)


def plan_work(shape: Shape, layout: Layout, device: Device, works: Sequence[Workload]) -> Choice:
    """Plan `layout` for all of `works`, each with its own micro-batch. Raises NoPlan where one of them does not fit.

    `layout.recompute` is kept where it fits; else the fastest of the levels that need less memory is taken.
    """
    choices: list[Choice] = []
    reason: NoPlan | None = None
    levels = get_args(Layout.model_fields["recompute"].annotation)
    for recompute in levels[levels.index(layout.recompute) :]:
        tried = layout.model_copy(update={"recompute": recompute})
        try:
            plans = tuple(best_plan(shape, tried, work, device) for work in works)
        except NoPlan as error:
            reason = error
            continue
        seconds = sum(work.seconds(plan) for work, plan in zip(works, plans, strict=True))
        choices.append(Choice(tried, plans, seconds, _need(plans, device)))
        if recompute == layout.recompute:
            break
    if not choices:
        assert reason is not None
        raise reason
    return min(choices, key=lambda choice: choice.seconds)


def choose_layout(shape: Shape, ranks: int, device: Device, works: Sequence[Workload]) -> Choice:
    """The fastest layout for `works` that uses all of `ranks` ranks and fits into memory.

    Its blocks are compiled where that is predicted to save more than it takes. Raises UserError where there is none.
    """
    choices: list[Choice] = []
    left_out = Counter[str]()
    for layout in candidates(shape, ranks, device, works):
        try:
            choices.append(plan_work(shape, layout, device, works))
        except NoPlan as error:
            left_out[str(error)] += 1
    if not choices:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise UserError(
            f"layout=auto: no layout of {ranks} {device.name} can do this ({reasons or 'none is possible'}); use more "
            "workers, a shorter context or another batch"
        )
    best, *others = sorted(choices, key=lambda c: (c.seconds, max(plan.memory.total for plan in c.plans)))
    why = _next_best(best, others)
    if best.layout.compile:
        eager = plan_work(shape, best.layout.model_copy(update={"compile": False}), device, works)
        if eager.seconds < best.seconds + COMPILE_SECONDS:
            best = eager
        else:
            why += f"; without compile {eager.seconds / best.seconds - 1:.0%} slower"
    return replace(best, why=best.why + why)


def _need(plans: Sequence[LayoutPlan], device: Device) -> str:
    memory = max(plan.memory.total for plan in plans)
    speeds = " / ".join(f"{plan.tokens_per_second:,.0f}" for plan in plans)
    return f"predicted {speeds} tokens/s a rank and {memory / GIB:.3g} of {device.usable_memory / GIB:.3g} GiB"


def _next_best(best: Choice, others: Sequence[Choice]) -> str:
    """The next best layout with other degrees; layouts that only keep their states elsewhere are passed over."""
    degrees = (best.layout.dp, best.layout.pp, best.layout.cp, best.layout.tp)
    other = next((c for c in others if (c.layout.dp, c.layout.pp, c.layout.cp, c.layout.tp) != degrees), None)
    return f"; next best {written(other.layout)}: {other.seconds / best.seconds - 1:.1%} slower" if other else ""


def written(layout: Layout) -> str:
    """A layout in one line: degrees, then where parameters, gradients and optimizer states live."""
    parts = [f"dp{layout.dp}"]
    if layout.pp > 1:
        parts.append(f"pp{layout.pp} {layout.schedule}" + (f" x{layout.virtual_stages}" * (layout.virtual_stages > 1)))
    if layout.cp > 1:
        parts.append(f"cp{layout.cp} {layout.cp_kind}")
    if layout.tp > 1:
        parts.append(f"tp{layout.tp}" + " sp" * layout.sequence_parallel)
    states = (layout.parameters, layout.gradients, layout.optimizer)
    group = f" of {layout.shard_group}" if "partial" in states else ""
    again = f", recompute {layout.recompute}" if layout.recompute != "none" else ""
    compiled = ", compile" if layout.compile else ""
    return " ".join(parts) + ", " + "/".join(states) + group + again + compiled
