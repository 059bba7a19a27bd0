"""Assigns a layout to each stretch of a training, for the workers that there are."""

from dataclasses import dataclass
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.layout import Layout
from ilm_ray.config.training import TrainingConfig
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.calibration import read_calibration
from ilm_ray.training.plan.devices import Device, known_device
from ilm_ray.training.plan.elastic import usable, with_dp
from ilm_ray.training.plan.phases import work_of
from ilm_ray.training.plan.planner import choose_layout


@dataclass(frozen=True)
class Stretch:
    """Steps up to `until` in one layout; at most `at_once` sequences in a micro-batch, 0: the task decides."""

    until: int
    layout: Layout
    at_once: int


@dataclass(frozen=True)
class Stretches:
    """All stretches of a training. `used`: ranks that take part, from the first; `why`: one line for people."""

    used: int
    all: tuple[Stretch, ...]
    why: str


def stretches(config: Config, shape: Shape, ranks: int, gpu: str | None) -> Stretches:
    """The layouts of the phases on `ranks` workers. Raises UserError where there is none.

    gpu: CUDA's name of it, None for a CPU.

    A named layout is used as it is on the configured number of workers. On fewer, or with `auto`, the planner chooses;
    with `auto` each phase gets its own fastest layout.
    """
    training, works = config.training, work_of(config)
    ends = [sum(work.steps for work in works[: number + 1]) for number in range(len(works))]
    if training.layout != "auto" and ranks == training.workers:
        layout = training.layout.on(ranks)
        parts = tuple(Stretch(end, layout, work.step.at_once) for end, work in zip(ends, works, strict=True))
        return Stretches(ranks, parts, "")
    device = cluster_device(training.calibration, gpu)
    base = None if training.layout == "auto" else training.layout
    together = usable(base, ranks, shape, device, works)
    choices = [(together.layout, plan.step.at_once, "") for plan in together.plans]
    if base is None:
        for number, work in enumerate(works):
            try:
                alone = choose_layout(shape, together.ranks, device, [work])
            except UserError:  # a stretch of its own may have none of all these ranks: the common one has
                continue
            choices[number] = (alone.layout, alone.plans[0].step.at_once, alone.why)
    whys = [f"{phase.name}: {why}" for phase, (_, _, why) in zip(config.pretrain.phases, choices, strict=True) if why]
    return Stretches(
        together.ranks,
        tuple(Stretch(end, layout, at_once) for end, (layout, at_once, _) in zip(ends, choices, strict=True)),
        "; ".join([together.why, *whys]),
    )


def one_stretch(training: TrainingConfig, shape: Shape, ranks: int, steps: int, pipeline: bool) -> Stretches:
    """One layout for a training that deals its batches out by tokens, and so runs on any number of replicas.

    It has the degrees of `training.layout` (`auto`: none, every rank is a replica) and the largest dp that `ranks`
    give. pipeline: whether the model can be cut into stages; otherwise a pipeline's ranks become replicas. Raises
    UserError where `ranks` are too few or the model cannot be split so.
    """
    base = Layout() if training.layout == "auto" else training.layout
    why = []
    if base.pp > 1 and not pipeline:
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
    layout.require_model(shape, shape.vocab_size)
    return Stretches(ranks - idle, (Stretch(steps, layout, 0),), "; ".join(why))


def cluster_device(calibration: str | None, gpu: str | None) -> Device:
    """The device to plan for: from a calibration, else from the data sheet by CUDA's name; None: a CPU.

    Raises UserError where the file is no calibration, or there is no data of such a device.
    """
    return known_device(gpu) if calibration is None else read_calibration(Path(calibration))[0]
