"""A training task: all that the training loop needs to know about pre-training, SFT or reward modelling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.config.training import PhaseConfig
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.stretches import Stretch, Stretches

Micro = Any  # one micro-batch of a task: only the task looks inside


@dataclass(frozen=True)
class Losses:
    """Sums over a micro-batch: the loss to go backward, its divisor, and figures to log (also sums)."""

    loss: Tensor
    count: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Task(ABC):
    """Data, loss and schedule of one training.

    A rank here is a replica of the model, on one worker or several; all workers of a replica get the same batches.
    `micro_batches` must give every rank the same number of them, because their forwards are collective. With a
    pipeline a micro-batch is (packed tokens, labels), and the loss is the sum of the tokens' losses.
    """

    steps: int
    checkpoint_every: int
    log_every: int
    phases: Sequence[PhaseConfig] = ()  # named in the log; see `phase_of`
    about: Mapping[str, str] = MappingProxyType({})  # metadata of the final weights, for `read_about`
    base: Path | None = None  # folder of the model that training starts from, whose origin the result keeps
    # Batches that were left out because they did harm: JSON for a checkpoint, set again when that is loaded. None: this
    # task cannot leave out batches, and a step without a finite gradient ends the training.
    skipped: list[Any] | None = None

    @abstractmethod
    def build(self) -> CausalLM | ScalarModel:
        """The whole model on the meta device: the values of its weights are lost."""

    @abstractmethod
    def fill(self, part: CausalLM | ScalarModel) -> None:
        """Give a rank's share of the model its first values."""

    @abstractmethod
    def learning_rate(self, step: int) -> float: ...

    @abstractmethod
    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Micro]: ...

    @abstractmethod
    def losses(self, model: Any, micro: Micro) -> Losses: ...

    @abstractmethod
    def count(self, micro: Micro) -> float:
        """The divisor of the micro-batch's loss: predicted tokens, or pairs."""

    @abstractmethod
    def tokens(self, micro: Micro) -> int: ...

    @abstractmethod
    def context(self, step: int) -> int:
        """Tokens that attend to each other, for counting FLOP."""

    def before_step(self, model: Any, step: int, evaluate: Callable[..., Any]) -> dict[str, Any] | None:
        """Measure or change the model between two steps; a row for the log, or None."""
        return None

    def lay_out(self, ranks: int, device: Device) -> Stretches:
        """The parallel layouts to train in on `ranks` workers with such devices; by default data-parallel."""
        return Stretches(ranks, (Stretch(self.steps, Layout(), 0),), "")

    def phase_of(self, step: int) -> tuple[int, int]:
        """(number of the phase, step within it)."""
        return 0, step

    def skip(self, first: int, last: int) -> None:
        """Leave out the batches that steps first to last just read; later batches take their places."""
        raise TypeError(f"{type(self).__name__} cannot leave out batches")
