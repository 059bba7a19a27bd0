"""The result of a benchmark's set, as `results/<benchmark>/<set>.json` holds it.

Standard library only: the evaluation environment imports this too.
"""

from typing import Any, NotRequired, TypedDict, final


class Turn(TypedDict):
    """A message between model and interpreter."""

    role: str
    text: str


class Sample(TypedDict):
    """An answer for the report. correct: None where the evaluator judges no single answer; turns: the messages of model
    and interpreter, [] for an answer in one go."""

    prompt: str
    answer: str
    gold: str
    correct: bool | None
    turns: NotRequired[list[Turn]]


@final
class SetResult(TypedDict):
    """Figures of a set.

    score: in per cent, or out of `of`; cut: prompts that did not fit into the context; weight: factor of the set in the
    benchmark's figure (default 1); judged: the judge and counts of its verdicts; grid, tokens: of needles, the scores
    by length and depth, and the longest prompt at each length.
    """

    metric: str
    score: float
    of: NotRequired[int]
    weight: NotRequired[float]
    examples: int
    cut: int
    seconds: float
    judged: NotRequired[dict[str, Any]]
    grid: NotRequired[dict[str, Any]]
    tokens: NotRequired[dict[str, int]]
    samples: list[Sample]


@final
class LackingResult(TypedDict):
    """A node could not score a set, for it lacks a compiler."""

    lacks: str
