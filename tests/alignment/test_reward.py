"""Focal ranking loss and log barrier against their formulas; batches by tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.alignment.reward.conditional import conditioned
from ilm_ray.alignment.reward.task import focal_ranking_loss, log_barrier
from ilm_ray.alignment.sft import chat_labels, plan_batches
from ilm_ray.base.errors import UserError
from ilm_ray.base.rows import require_splits
from ilm_ray.model.loss import IGNORE


@given(st.floats(-8, 8), st.floats(-8, 8))
def test_focal_loss_is_equation_1(chosen: float, rejected: float) -> None:
    p = 1 / (1 + math.exp(rejected - chosen))
    expected = -((1 - 2 * max(0.0, p - 0.5)) ** 2) * math.log(p)
    scores = torch.tensor([chosen, rejected], dtype=torch.float64)
    ours = focal_ranking_loss(scores[:1], scores[1:], gamma=2.0)
    assert ours.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_focal_loss_with_gamma_0_is_bradley_terry() -> None:
    a, b = torch.randn(50, generator=torch.Generator().manual_seed(0)).view(2, 25)
    torch.testing.assert_close(focal_ranking_loss(a, b, 0.0), torch.nn.functional.softplus(b - a))


@given(st.floats(-4.9, 4.9))
def test_barrier_inside_is_equation_2(score: float) -> None:
    expected = -(math.log(score + 5) + math.log(5 - score))
    ours = log_barrier(torch.tensor(score, dtype=torch.float64), 5.0)
    assert ours.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.floats(5, 1000))
def test_barrier_outside_is_finite_and_pulls_back(score: float) -> None:
    for sign in (1, -1):
        x = torch.tensor(sign * score, dtype=torch.float64, requires_grad=True)
        value = log_barrier(x, 5.0)
        value.backward()
        assert math.isfinite(value.item()) and x.grad is not None
        assert x.grad.item() * sign > 100  # downhill leads inwards, as steep as just inside the border


def test_batches_hold_each_example_once_an_epoch_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=200)
    plan = plan_batches(lengths, budget=500, epochs=3, seed=1)
    drawn = np.concatenate(plan)
    assert sorted(drawn.tolist()) == sorted(list(range(200)) * 3)
    assert all(lengths[step].sum() <= 500 for step in plan)
    assert len(plan) < 1.2 * 3 * lengths.sum() / 500


def test_an_example_above_the_budget_is_a_step_of_its_own() -> None:
    plan = plan_batches(np.array([10, 700, 20]), budget=500, epochs=1, seed=0)
    assert [1] in [step.tolist() for step in plan]


def test_what_is_too_long_loses_the_beginning_of_the_conversation_and_keeps_the_condition() -> None:
    ids = [1, *range(10, 20)]
    assert conditioned([40, 41], ids, 3, context=20) == [1, 40, 41, *range(10, 20), 3]
    assert conditioned([40, 41], ids, 3, context=8) == [1, 40, 41, 16, 17, 18, 19, 3]
    with pytest.raises(UserError, match=r"reward\.context=4 has no room"):
        conditioned([40, 41], ids, 3, context=4)


def test_both_splits_must_have_rows() -> None:
    require_splits([{}, {"split": "heldout"}], "reward.data")
    for rows, missing in (([{}, {"split": "train"}], "heldout"), ([{"split": "heldout"}], "train")):
        with pytest.raises(UserError, match=rf'reward\.data has no row of split "{missing}"'):
            require_splits(rows, "reward.data")


def test_chat_labels_follow_the_mask() -> None:
    ids, mask = [10, 11, 12, 13, 14], [0, 0, 1, 1, 0]
    assert chat_labels(ids, mask).tolist() == [IGNORE, 12, 13, IGNORE, IGNORE]
