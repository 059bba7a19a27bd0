"""Steps that must not be applied: a loss or a gradient that is no number, or far above what was usual."""

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
class Verdict:
    """Why a step is not applied. `roll_back`: so many in a row that the weights are suspected, not the batch."""

    kind: str  # non_finite or spike
    why: str
    roll_back: bool


class Guard:
    """Looks at each step's loss and gradient norm before the optimizer does (after OLMo-core's skip-step optimizer).

    What it knows is part of a checkpoint, so that a resumed run decides as an undisturbed one.
    """

    def __init__(self, settings: SpikeConfig, state: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.usual = {name: deque[float](maxlen=settings.window) for name in ("loss", "gradient norm")}
        self.bad = 0  # steps in a row that were not applied
        for name, values in (state or {}).items():
            self.usual[name].extend(values)

    def look(self, loss: float, norm: float) -> Verdict | None:
        """None where the step may be applied; it is then part of what is usual."""
        found = dict(zip(self.usual, (loss, norm), strict=True))
        wrong = next((name for name, value in found.items() if not math.isfinite(value)), None)
        kind, why = "non_finite", f"{wrong} is {found.get(wrong or '')}"
        if wrong is None:
            limits = {name: self._limit(name) for name in found}
            wrong = next((name for name, value in found.items() if value > limits[name]), None)
            if wrong is None:
                self.bad = 0
                for name, value in found.items():
                    self.usual[name].append(value)
                return None
            kind = "spike"
            why = (
                f"{wrong} {found[wrong]:.4g} is above {limits[wrong]:.4g}, the mean of {len(self.usual[wrong])} steps "
                f"and {self.settings.sigmas:g} standard deviations{'' if wrong == 'loss' else ' (of its logarithm)'}"
            )
        self.bad += 1
        return Verdict(kind, why, roll_back=self.bad >= self.settings.patience)

    def forget(self) -> None:
        """What was usual is so no longer: another phase begins, or older weights are back."""
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
    found = list(values)
    return statistics.fmean(found) + sigmas * statistics.stdev(found)


def nth_kept(number: int, skipped: list[int]) -> int:
    """The number of the batch read as the `number`-th (from 0) where those in `skipped`, ascending, are left out."""
    for left_out in skipped:
        if left_out > number:
            break
        number += 1
    return number
