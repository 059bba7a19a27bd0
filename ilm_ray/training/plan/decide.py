"""Decides how a training is laid out: degrees, states, recomputation and micro-batches. The dry run and the run ask it.

Pure: the same answer on every rank and in the driver, for the same device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.training.plan.devices import GIB, Device
from ilm_ray.training.plan.elastic import usable, usable_each, with_dp
from ilm_ray.training.plan.memory import Memory, peak_memory
from ilm_ray.training.plan.planner import LayoutPlan, NoPlan, Workload, plan_work, predict, ranks_of, written
from ilm_ray.training.plan.step import OptimizerStep
from ilm_ray.training.plan.trainings import Training


@dataclass(frozen=True)
class Decision:
    """The plan of each of a training's workloads. used: ranks that take part, from the first; why: one line.

    micro_tokens: the tokens that a micro-batch of each may have.
    """

    used: int
    plans: tuple[LayoutPlan, ...]
    why: str
    micro_tokens: tuple[int, ...]


def decide(training: Training, ranks: int, workers: int, device: Device) -> Decision:
    """The layouts of `training` on `ranks` of the `workers` that are configured. Raises UserError where there is none.

    A named layout is used as it is on the configured number of workers, and refused where it needs more memory than a
    GPU has. On fewer, or with `auto`, the planner chooses; with `auto` each phase gets its own fastest layout. A
    training whose batches are dealt out keeps the degrees of a named layout on any number of workers.
    """
    if training.layout == "auto":
        choices = usable_each(ranks, training.shape, device, training.works)
        named = [f"{name}: {choice.why}" for name, choice in zip(training.names, choices, strict=True)]
        why = "; ".join(named) if len(choices) > 1 else choices[0].why
        return _decided(choices[0].ranks, [choice.plans[0] for choice in choices], why)
    if ranks != workers and not training.dealt:
        choice = usable(training.layout, ranks, training.shape, device, training.works)
        return _decided(choice.ranks, choice.plans, choice.why)
    layout, why = named_layout(training, training.layout, ranks)
    if (problem := too_large(training, layout, device)) is not None:
        if ranks == workers:
            raise UserError(f"{problem}; training.layout=auto lets the planner choose")
        try:
            choice = plan_work(training.shape, layout, device, training.works)
        except NoPlan:
            raise UserError(f"{problem}; training.layout=auto lets the planner choose") from None
        return _decided(choice.ranks, choice.plans, "; ".join([*([why] if why else []), choice.why]))
    steps = [_named_step(training, work, layout) for work in training.works]
    plans = tuple(predict(training.shape, layout, step, device) for step in steps)
    return Decision(ranks_of(layout), plans, why, (training.micro_tokens,) * len(plans))


def _decided(ranks: int, plans: Sequence[LayoutPlan], why: str) -> Decision:
    return Decision(ranks, tuple(plans), why, tuple(plan.step.at_once * plan.step.context for plan in plans))


def named_layout(training: Training, base: Layout, ranks: int) -> tuple[Layout, str]:
    """`base` on `ranks` workers, and a line for people where it is not all as it was named.

    A training whose batches are dealt out has the degrees of `base` with the largest dp. Raises UserError where `ranks`
    are too few, or the model or a batch cannot be split so.
    """
    if not training.dealt:
        return base.on(ranks), ""
    why = []
    if base.pp > 1 and not training.pipeline:
        whole = {"pp": 1, "schedule": "1f1b", "virtual_stages": 1}
        why.append(f"the model has no pipeline: the ranks of pp={base.pp} are replicas")
        base = Layout.model_validate(base.model_dump() | whole | {"dp": None})
    dp, idle = divmod(ranks, base.replica_ranks)
    if dp == 0:
        raise UserError(
            f"training.layout: pp * cp * tp = {base.replica_ranks} ranks make one model, there are {ranks} workers; "
            "lower a degree or raise training.workers"
        )
    if idle:
        why.append(f"{ranks} workers: {idle} idle")
    layout = with_dp(base, dp)
    layout.require_model(training.shape, training.shape.vocab_size)
    return layout, "; ".join(why)


def _named_step(training: Training, work: Workload, layout: Layout) -> OptimizerStep:
    """The step with the micro-batches that the settings name; one that is filled by tokens counts as full."""
    assert layout.dp is not None
    if not work.dealt:
        step = work.step_of(layout, work.step.at_once)
        return replace(step, at_once=max(1, min(step.at_once, step.sequences // layout.dp)))
    at_once = max(work.least, -(-training.micro_tokens // work.step.context))
    step = work.step_of(layout, at_once)
    micros = -(-step.micros(layout) // layout.pp) * layout.pp  # empty ones fill a pipeline
    return replace(step, sequences=micros * at_once * layout.dp)


def too_large(training: Training, layout: Layout, device: Device) -> str | None:
    """Says which workload needs more memory in a named `layout` than a GPU has; None where all fit.

    CPUs are not judged: their ranks share the machine's memory, and the share of a process is not known here.
    """
    if not device.fused:
        return None
    for name, work in zip(training.names, training.works, strict=True):
        memory = peak_memory(training.shape, layout, _named_step(training, work, layout), device.fused)
        if memory.total > device.usable_memory:
            where = training.stage if name == training.stage else f"{training.stage}, phase {name}"
            return f"{where}: {written(layout)} needs {_of(memory, device)}"
    return None


def _of(memory: Memory, device: Device) -> str:
    return f"{memory.total / GIB:.1f} GiB of the {device.usable_memory / GIB:.1f} that {device.name} has for tensors"
