"""A training's layouts as the trainer takes them: one stretch of steps after the other."""

from dataclasses import dataclass
from pathlib import Path

from ilm_ray.config.layout import Layout
from ilm_ray.training.plan.calibration import read_calibration
from ilm_ray.training.plan.cards import known_device
from ilm_ray.training.plan.decide import decide
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.trainings import Training


@dataclass(frozen=True)
class Stretch:
    """Steps up to `until` in one layout; at most `at_once` sequences or `micro_tokens` tokens in a micro-batch.

    A training by phases counts sequences, one whose batches are dealt out by tokens counts tokens.
    """

    until: int
    layout: Layout
    at_once: int
    micro_tokens: int = 0


@dataclass(frozen=True)
class Stretches:
    """All stretches of a training. `used`: ranks that take part, from the first; `why`: one line for people."""

    used: int
    all: tuple[Stretch, ...]
    why: str


def stretches(training: Training, ranks: int, workers: int, device: Device) -> Stretches:
    """A stretch for each workload, with the layout that `decide` gives it. Raises UserError as `decide` does."""
    decision, until, parts = decide(training, ranks, workers, device), 0, list[Stretch]()
    for work, plan, most in zip(training.works, decision.plans, decision.micro_tokens, strict=True):
        until += work.steps
        parts.append(Stretch(until, plan.layout, plan.step.at_once, most))
    return Stretches(decision.used, tuple(parts), decision.why)


def device_to_plan_for(calibration: str | None, gpu: str | None, memory: int | None = None) -> Device:
    """The device to plan for: from a calibration, else by the name of a GPU; None: a CPU.

    memory: bytes that the device says it has. Raises UserError where the file is no calibration.
    """
    return known_device(gpu, memory) if calibration is None else read_calibration(Path(calibration))[0]
