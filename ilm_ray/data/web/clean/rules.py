"""Clean: rules of one's own, and the first rule that a document breaks (report section 3.1).

The report names kinds of rules and no threshold. Every score is kept, so that a threshold can be moved without scoring
again; `ilm_ray.config.thresholds` says where each default comes from, `ilm_ray/data/documents/scores.py` computes the
scores.
"""

import math
import runpy
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.document import Verdict

OwnRule = Callable[[str], float]


def read_rule(name: str, path: str) -> OwnRule:
    """The function `name` of a Python file. Raises UserError where there is none."""
    try:
        function = runpy.run_path(path).get(name)
    except Exception as error:  # the file may do anything
        raise UserError(f"text.own_rules.{name}: {path} does not run: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UserError(f"text.own_rules.{name}: {path} has no function {name}; write def {name}(text: str) -> float")
    return function


def own_scores(texts: Sequence[str], functions: Mapping[str, OwnRule]) -> dict[str, np.ndarray]:
    """Rule of one's own -> float64 [texts], rounded to 4 places. Raises UserError where one gives no finite number."""
    return {
        rule: np.array([_own_score(rule, function, text) for text in texts]) for rule, function in functions.items()
    }


def _own_score(rule: str, function: OwnRule, text: str) -> float:
    try:
        score = round(float(function(text)), 4)
        if math.isfinite(score):
            return score
        problem = f"it gave {score}"
    except Exception as error:  # the function may do anything
        problem = f"{type(error).__name__}: {error}"
    raise UserError(f"text.own_rules.{rule} has no score for the text that begins {text[:60]!r}: {problem}")


def first_failures(
    scores: Mapping[str, np.ndarray],
    languages: Sequence[str],
    rules: Mapping[str, Mapping[str, tuple[float | None, float | None]]],
) -> list[Verdict | None]:
    """For each document the first rule of its language that it breaks, with the bound on the broken side.

    rules: language -> rule -> (lowest, highest), asked in this order; "*" is for languages that are not named.
    """
    verdicts: list[Verdict | None] = [None] * len(languages)
    for language in set(languages):
        open_ = np.flatnonzero([other == language for other in languages])
        for rule, (low, high) in rules.get(language, rules["*"]).items():
            values = scores[rule][open_]
            least, most = -np.inf if low is None else low, np.inf if high is None else high
            below, above = values < least, values > most
            for at, value in zip(open_[below | above].tolist(), values[below | above].tolist(), strict=True):
                verdicts[at] = Verdict(rule, value, least if value < least else most)
            open_ = open_[~(below | above)]
    return verdicts
