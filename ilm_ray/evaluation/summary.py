"""Figures of the evaluation stage: means with their error, comparison before and after PPO."""

import math
from collections.abc import Sequence
from typing import Any


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, None for a single value."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def alignment_summary(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """rows: one a prompt, with `reward` (score), `kl` (nats a sequence) and `tokens` (response length)."""
    reward, reward_error = mean_and_error([row["reward"] for row in rows])
    kl, kl_error = mean_and_error([row["kl"] for row in rows])
    tokens, _ = mean_and_error([row["tokens"] for row in rows])
    return {
        "prompts": len(rows),
        "reward_mean": reward,
        "reward_se": reward_error,
        "kl_mean": kl,
        "kl_se": kl_error,
        "response_tokens": tokens,
    }


def gain_in_errors(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Difference of the means in units of its standard error; the two samples are taken as independent.

    None where there is no error to measure by: a single value, or all of them equal.
    """
    (a, a_error), (b, b_error) = mean_and_error(before), mean_and_error(after)
    error = None if a_error is None or b_error is None else math.hypot(a_error, b_error)
    return (b - a) / error if error else None
