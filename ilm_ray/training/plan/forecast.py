"""A forecast of a training: tokens and hours of its phases, bytes of its checkpoints."""

from dataclasses import dataclass

from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.decide import Decision
from ilm_ray.training.plan.planner import LayoutPlan
from ilm_ray.training.plan.shape import parameters_of
from ilm_ray.training.plan.trainings import Training


@dataclass(frozen=True)
class Forecast:
    """The predicted tokens and time of a phase."""

    name: str
    steps: int
    plan: LayoutPlan
    tokens: int
    tokens_per_second: float  # all ranks
    seconds: float
    device_seconds: float  # of all ranks, idle ones too


def forecast(training: Training, decision: Decision, ranks: int) -> list[Forecast]:
    """Each phase in its plan, on a machine of `ranks` ranks. Evaluation, checkpoints and restarts are not counted."""
    forecasts = []
    for name, work, plan in zip(training.names, training.works, decision.plans, strict=True):
        seconds, tokens = work.steps * plan.times.total, work.steps * plan.step.tokens
        forecasts.append(Forecast(name, work.steps, plan, tokens, tokens / seconds, seconds, seconds * ranks))
    return forecasts


def checkpoint_bytes(shape: Shape) -> tuple[int, int]:
    """(of a training checkpoint: weights and two moments in fp32; of weights alone as they are exported, in bf16)"""
    parameters = parameters_of(shape)
    return 12 * parameters, 2 * parameters
