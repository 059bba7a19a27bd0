"""Figures of the evaluation are valid JSON, whatever there was to measure."""

import json

import pytest

from ilm_ray.evaluation.summary import alignment_summary, gain_in_errors, mean_and_error


def test_mean_and_error_by_hand() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx((1 / 3) ** 0.5))
    assert gain_in_errors([1.0, 3.0], [4.0, 6.0]) == pytest.approx(3 / 2**0.5)


def test_what_has_no_error_is_none_and_valid_json() -> None:
    summary = alignment_summary([{"reward": 1.0, "kl": 0.5, "tokens": 7}])
    assert summary["reward_se"] is None and summary["kl_se"] is None and summary["reward_mean"] == 1.0
    json.dumps(summary, allow_nan=False)
    assert gain_in_errors([1.0], [2.0, 3.0]) is None  # one value has no error
    assert gain_in_errors([1.0, 1.0], [2.0, 2.0]) is None  # an error of zero is nothing to divide by
