"""Focal ranking loss and log barrier against their formulas; batches by tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.alignment.reward import focal_ranking_loss, log_barrier
from ilm_ray.alignment.sft import chat_labels, plan_batches
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
    # A batch is closed by the example that crosses a multiple of the budget.
    assert all(lengths[step].sum() <= 500 + lengths.max() for step in plan)
    assert len(plan) == sum(-(-int(lengths.sum()) // 500) for _ in range(3))


def test_chat_labels_follow_the_mask() -> None:
    ids, mask = [10, 11, 12, 13, 14], [0, 0, 1, 1, 0]
    assert chat_labels(ids, mask).tolist() == [IGNORE, 12, 13, IGNORE, IGNORE]
