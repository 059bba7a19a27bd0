"""Pre-training for the planner: the phases as workloads, a layout to train them in, a forecast of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from ilm_ray.config import Config
from ilm_ray.config.fit import parameter_count
from ilm_ray.config.training import PhaseConfig, TrainingConfig
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.elastic import usable
from ilm_ray.training.plan.planner import Choice, LayoutPlan, Workload
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.step import OptimizerStep


def work_of(config: Config) -> list[Workload]:
    """The phases' steps; `micro_tokens` is the most that the planner may put into a micro-batch."""
    return [Workload(step_of(config.training, phase), phase.steps) for phase in config.pretrain.phases]


def step_of(training: TrainingConfig, phase: PhaseConfig) -> OptimizerStep:
    """A step of `phase` with the micro-batches that the configuration names."""
    return OptimizerStep(
        phase.context, phase.sequences, training.at_once(phase), training.precision, training.loss_chunk
    )


def training_layout(config: Config, vocab_size: int, ranks: int, device: Device) -> Choice:
    """One layout for all phases on up to `ranks` ranks: `training.layout`, or what comes nearest to it, or for `auto`
    the fastest.

    Its `plans` say how many sequences of each phase a micro-batch may have. Raises UserError where nothing fits.
    """
    layout, works = config.training.layout, work_of(config)
    return usable(None if layout == "auto" else layout, ranks, shape_of(config, vocab_size), device, works)


def choose_layouts(config: Config, vocab_size: int, ranks: int, device: Device) -> list[Choice]:
    """For each phase alone the fastest layout of up to `ranks` ranks. Raises UserError where one has none."""
    shape = shape_of(config, vocab_size)
    return [usable(None, ranks, shape, device, [work]) for work in work_of(config)]


@dataclass(frozen=True)
class Forecast:
    """The predicted tokens and time of a phase."""

    phase: PhaseConfig
    plan: LayoutPlan
    tokens: int
    tokens_per_second: float  # all ranks
    seconds: float
    device_seconds: float  # of all ranks, idle ones too


def forecast(phases: Sequence[PhaseConfig], plans: Sequence[LayoutPlan], ranks: int) -> list[Forecast]:
    """Each phase in its plan, on a machine of `ranks` ranks. Evaluation, checkpoints and restarts are not counted."""
    forecasts = []
    for phase, plan in zip(phases, plans, strict=True):
        seconds, tokens = phase.steps * plan.times.total, phase.steps * plan.step.tokens
        forecasts.append(Forecast(phase, plan, tokens, tokens / seconds, seconds, seconds * ranks))
    return forecasts


def checkpoint_bytes(config: Config, vocab_size: int) -> tuple[int, int]:
    """(of a training checkpoint: weights and two moments in fp32; of weights alone as they are exported, in bf16)"""
    parameters = parameter_count(config.model, vocab_size)
    return 12 * parameters, 2 * parameters
