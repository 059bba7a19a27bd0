"""The trainings of a run as the planner sees them: pre-training, the scorer of long texts, SFT, the reward model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ilm_ray.config import Config
from ilm_ray.config.layout import Layout
from ilm_ray.config.training import PhaseConfig, TrainingConfig
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.planner import Workload
from ilm_ray.training.plan.step import OptimizerStep

PAIR = 2  # sequences that a preference pair has: the scores of both belong into one micro-batch


@dataclass(frozen=True)
class Training:
    """A training, its steps, and the layout that the settings ask for.

    names: of the phases; one of the stage where there are none. micro_tokens: the tokens that the settings allow a
    micro-batch. dealt: its batches are shared out by tokens, so that it runs on any number of replicas. pipeline: the
    model can be cut into stages.
    """

    stage: str
    shape: Shape
    works: tuple[Workload, ...]
    names: tuple[str, ...]
    layout: Layout | Literal["auto"]
    micro_tokens: int
    dealt: bool = False
    pipeline: bool = True


def pretraining(config: Config, shape: Shape, stage: str = "pretrain") -> Training:
    """The phases; `training.micro_tokens` is the most that the planner may put into a micro-batch."""
    phases, training = config.pretrain.phases, config.training
    works = tuple(Workload(step_of(training, phase), phase.steps) for phase in phases)
    names = tuple(phase.name for phase in phases)
    return Training(stage, shape, works, names, training.layout, training.micro_tokens)


def step_of(training: TrainingConfig, phase: PhaseConfig) -> OptimizerStep:
    """A step of `phase` with the micro-batches that the configuration names."""
    return OptimizerStep(
        phase.context, phase.sequences, training.at_once(phase), training.precision, training.loss_chunk
    )


def fine_tuning(config: Config, shape: Shape, steps: int = 1) -> Training:
    """SFT: conversations and pieces of pre-training data of up to `sft.context` tokens; the latter come on top of
    `sft.batch_tokens`."""
    sft = config.sft
    tokens = round(sft.batch_tokens / (1 - sft.pretrain_share)) if sft.pretrain_share < 1 else sft.batch_tokens
    return _dealt("sft", config, shape, sft.context, tokens, steps)


def reward_training(config: Config, shape: Shape, steps: int = 1, stage: str = "reward") -> Training:
    """The reward model: pairs of sequences of up to `reward.context` tokens each."""
    reward = config.reward
    return _dealt(stage, config, shape, reward.context, reward.batch_tokens, steps, PAIR, scalar=True)


def _dealt(
    stage: str,
    config: Config,
    shape: Shape,
    context: int,
    tokens: int,
    steps: int,
    least: int = 1,
    scalar: bool = False,
) -> Training:
    """A training whose micro-batches are filled by tokens, at least `least` sequences of `context` tokens."""
    training = config.training
    most = max(least, training.micro_tokens // context)
    step = OptimizerStep(context, -(-tokens // context), most, training.precision, training.loss_chunk, scalar)
    work = Workload(step, steps, least, dealt=True)
    return Training(
        stage, shape, (work,), (stage,), training.layout, training.micro_tokens, dealt=True, pipeline=not scalar
    )


def trainings(config: Config, shape: Shape, stages: Collection[str]) -> Sequence[Training]:
    """Those of `stages` that are trained on the workers of `training`, in the order of the road.

    The scorer of long texts is left out: it is far smaller than any model that a run trains.
    """
    every = {
        "pretrain": pretraining(config, shape),
        "sft": fine_tuning(config, shape),
        "reward": reward_training(config, shape),
        "online": reward_training(config, shape, stage="online"),
    }
    return [training for stage, training in every.items() if stage in stages]
