"""A section of `make gpu` is a list of cases. Each gives figures, or a line that says why it has none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]  # plain JSON; `holds` is the verdict of a comparison with a bound


class Skipped(Exception):
    """A case cannot run here. The text is the reason, as gpu.json has it."""


@dataclass(frozen=True)
class Where:
    """device: cuda or cpu; tiny: shapes that only show that the logic runs; ends_at: time.time() of the end of all."""

    device: str
    tiny: bool
    ends_at: float
    steps: tuple[str, ...] = ()  # training steps to measure in place of the usual ones

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True)
class Case:
    """deadline_s: seconds after which the case counts as failed and its process is ended."""

    name: str
    measure: Callable[[], Figures]
    deadline_s: float = 60.0


def rounded(value: float, digits: int = 4) -> float:
    """`value` with `digits` significant digits."""
    return float(f"{value:.{digits}g}")


def attempt(case: Case) -> Figures:
    """A case's figures, or {"skipped": reason}, or {"failed": error}. Raises nothing but what ends a process.

    A package that is not installed is skipped. Memory that runs out is a failure: cases that are predicted not to fit
    are skipped before they allocate anything.
    """
    try:
        return case.measure()
    except Skipped as reason:
        return {"skipped": str(reason)}
    except ImportError as error:
        return {"skipped": f"not installed: {one_line(error)}"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {one_line(error)}"}


def one_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""
