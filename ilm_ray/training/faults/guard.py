"""Guard against bad steps: a loss or gradient norm that is not finite, or far above those of recent steps."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ilm_ray.config.training import SpikeConfig

TINY = 1e-30  # stands for a norm of 0, which has no logarithm
MAX_EXPONENT = 700.0  # e to more than this is no float


@dataclass(frozen=True)
class BadStep:
    """A step that is not applied, and why. `roll_back`: so many in a row that the weights are suspected."""

    kind: str  # non_finite or spike
    why: str
    roll_back: bool


class Guard:
    """Checks each step's loss and gradient norm before the optimizer runs (after OLMo-core's skip-step optimizer).

    Its history is part of a checkpoint, so a resumed run decides as an undisturbed one.
    """

    def __init__(self, settings: SpikeConfig, state: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.usual = {name: deque[float](maxlen=settings.window) for name in ("loss", "gradient norm")}
        self.bad = 0  # steps in a row that were not applied
        for name, values in (state or {}).items():
            self.usual[name].extend(values)

    def look(self, loss: float, norm: float) -> BadStep | None:
        """Returns None where the step may be applied; its figures then join the history."""
        figures = dict(zip(self.usual, (loss, norm), strict=True))
        wrong = next((name for name, value in figures.items() if not math.isfinite(value)), None)
        kind, why = "non_finite", f"{wrong} is {figures.get(wrong or '')}"
        if wrong is None:
            limits = {name: self._limit(name) for name in figures}
            wrong = next((name for name, value in figures.items() if value > limits[name]), None)
            if wrong is None:
                self.bad = 0
                for name, value in figures.items():
                    self.usual[name].append(value)
                return None
            kind = "spike"
            why = (
                f"{wrong} {figures[wrong]:.4g} is above {limits[wrong]:.4g}, the mean of {len(self.usual[wrong])} "
                f"steps and {self.settings.sigmas:g} standard deviations"
                f"{'' if wrong == 'loss' else ' (of its logarithm)'}"
            )
        self.bad += 1
        return BadStep(kind, why, roll_back=self.bad >= self.settings.patience)

    def forget(self) -> None:
        """Clear the history: another phase begins, or older weights are back."""
        self.bad = 0
        for values in self.usual.values():
            values.clear()

    def state(self) -> dict[str, list[float]]:
        """For a checkpoint, as JSON."""
        return {name: list(values) for name, values in self.usual.items()}

    def _limit(self, name: str) -> float:
        values: Iterable[float] = self.usual[name]
        if len(self.usual[name]) < max(2, self.settings.window // 2):
            return math.inf
        if name == "loss":
            return _above(values, self.settings.sigmas)
        # A norm has a long tail: by its plain deviation, one sound batch in some hundreds would be left out.
        return math.exp(min(_above([math.log(max(v, TINY)) for v in values], self.settings.sigmas), MAX_EXPONENT))


def _above(values: Iterable[float], sigmas: float) -> float:
    numbers = list(values)
    return statistics.fmean(numbers) + sigmas * statistics.stdev(numbers)


def nth_kept(number: int, skipped: list[int]) -> int:
    """The number of the batch read as the `number`-th (from 0) where those in `skipped`, ascending, are left out."""
    for left_out in skipped:
        if left_out > number:
            break
        number += 1
    return number
