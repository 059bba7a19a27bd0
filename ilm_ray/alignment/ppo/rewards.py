"""Scores of answers from the parts of `ppo.rewards`: a reward model's numbers and the verdicts of functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ilm_ray.config.alignment import RewardPart

Verdict = dict[str, float] | str  # a function's parts by name, "" for its one number; or why there are none
Verdicts = Mapping[int, Mapping[str, Verdict]]  # number of an answer -> part -> verdict


@dataclass(frozen=True)
class Weighed:
    """Scores of all answers, one each: NaN where a part failed, or where none judges the answer's domain."""

    scores: list[float]
    parts: list[dict[str, float]]  # of each answer by name, before weights; those of a function `<part>/<its name>`
    failures: list[dict[str, str]]  # of each answer: part -> why it failed


def weigh(
    rewards: Sequence[RewardPart], domains: Sequence[str], model: Mapping[int, float], verdicts: Verdicts
) -> Weighed:
    """Sum up each answer's parts. domains: of the answers' prompts; model: scores of the reward model by number."""
    scores, all_parts, all_failures = [], list[dict[str, float]](), list[dict[str, str]]()
    for number, domain in enumerate(domains):
        parts, failures, score, judged = dict[str, float](), dict[str, str](), 0.0, False
        for part in rewards:
            if not part.judges(domain):
                continue
            judged = True
            verdict = {"": model[number]} if part.by == "model" else verdicts[number][part.called]
            if isinstance(verdict, str):
                failures[part.called] = verdict
                continue
            parts |= {f"{part.called}/{name}" if name else part.called: value for name, value in verdict.items()}
            score += part.weight * sum(verdict.values())
        scores.append(score if judged and not failures and math.isfinite(score) else math.nan)
        all_parts.append(parts)
        all_failures.append(failures)
    return Weighed(scores, all_parts, all_failures)


def failures_of(weighed: Weighed) -> dict[str, dict[str, int | str]]:
    """Part -> how many answers it failed on, and why it did first; empty where none failed."""
    found: dict[str, dict[str, int | str]] = {}
    for failures in weighed.failures:
        for part, why in failures.items():
            known = found.setdefault(part, {"answers": 0, "first": why})
            known["answers"] = int(known["answers"]) + 1
    return found
