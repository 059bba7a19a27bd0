"""Quality of a reward model on held-out pairs: accuracy, calibration, and whether it takes length for quality.

Everything follows from sums over pairs, so ranks and micro-batches add up.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 10  # of the probability that the model gives to the answer that it prefers: from 0.5 to 1
_COUNTS = ("pairs", "right", "longer", "longer_right", "shorter", "shorter_right")
# Moments of score and length over single answers, and of their differences over pairs.
_MOMENTS = ("x", "y", "xx", "yy", "xy")
_NAMES = [*_COUNTS, *(f"answer_{m}" for m in _MOMENTS), *(f"difference_{m}" for m in _MOMENTS)]


def pair_sums(
    chosen: Sequence[float], rejected: Sequence[float], chosen_tokens: Sequence[int], rejected_tokens: Sequence[int]
) -> list[float]:
    """Sums that `pair_figures` reads, over pairs of scores and lengths in tokens (one entry a pair).

    Equal scores count as wrong.
    """
    good, bad = np.array(chosen, np.float64), np.array(rejected, np.float64)
    long, short = np.array(chosen_tokens, np.float64), np.array(rejected_tokens, np.float64)
    right = good > bad
    counts = [len(good), right.sum()]
    for where in (long > short, long < short):  # the preferred answer is the longer one, the shorter one
        counts += [where.sum(), (where & right).sum()]
    answers = _moments(np.concatenate([good, bad]), np.concatenate([long, short]))
    confidence = 1 / (1 + np.exp(-np.abs(good - bad)))
    bins = np.minimum((confidence - 0.5) * 2 * BINS, BINS - 1).astype(int)
    in_bins = [np.bincount(bins, weights, BINS) for weights in (np.ones_like(good), confidence, right.astype(float))]
    numbers = [*counts, *answers, *_moments(good - bad, long - short), *np.concatenate(in_bins)]
    return [float(number) for number in numbers]


def pair_figures(sums: Sequence[float]) -> dict[str, Any]:
    """accuracy: share of pairs ranked right, also of those whose preferred answer is the longer or the shorter one.

    calibration: for each bin of predicted probability with pairs in it `predicted` (mean), `observed` (share ranked
    right), `pairs`; `error`: their mean distance over all pairs. length: correlation of score and length over answers,
    and of their differences within pairs. A figure is None where pairs or differences are lacking.
    """
    named = dict(zip(_NAMES, sums, strict=False))
    count, predicted, observed = np.array(sums[len(_NAMES) :]).reshape(3, BINS)
    bins = [
        {"predicted": float(p / n), "observed": float(o / n), "pairs": int(n)}
        for n, p, o in zip(count, predicted, observed, strict=True)
        if n
    ]
    return {
        "pairs": int(named["pairs"]),
        "accuracy": _share(named["right"], named["pairs"]),
        "accuracy_longer_preferred": _share(named["longer_right"], named["longer"]),
        "accuracy_shorter_preferred": _share(named["shorter_right"], named["shorter"]),
        "longer_preferred": _share(named["longer"], named["longer"] + named["shorter"]),
        "calibration": bins,
        "calibration_error": _share(float(np.abs(predicted - observed).sum()), named["pairs"]),
        "length_correlation": _correlation(2 * named["pairs"], [named[f"answer_{m}"] for m in _MOMENTS]),
        "length_correlation_within_pairs": _correlation(named["pairs"], [named[f"difference_{m}"] for m in _MOMENTS]),
    }


def _moments(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [float(m.sum()) for m in (x, y, x * x, y * y, x * y)]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _correlation(n: float, sums: Sequence[float]) -> float | None:
    """Pearson's, from the sums of x, y, x², y², xy."""
    x, y, xx, yy, xy = sums
    spread = (n * xx - x * x) * (n * yy - y * y)
    # Below this the spread is rounding: all lengths, or all scores, are the same.
    return (n * xy - x * y) / math.sqrt(spread) if spread > 1e-12 * n * xx * n * yy else None
