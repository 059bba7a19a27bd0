"""Focal ranking loss and log barrier against XTuner's, which its authors published beside the report."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ilm_ray.alignment.reward.task import focal_ranking_loss, log_barrier
from tests.peers.systems import openrlhf_models, require, xtuner_reward

require("xtuner", "openrlhf")
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}


def _scores(scale: float, pairs: int = 200) -> tuple[Tensor, Tensor]:
    drawn = scale * torch.randn(2, pairs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn[0], drawn[1]


def _gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, inputs))


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 50.0])
def test_focal_loss_and_its_gradient(scale: float) -> None:
    chosen, rejected = (part.requires_grad_() for part in _scores(scale))
    ours = focal_ranking_loss(chosen, rejected, 2.0).sum() / len(chosen)
    theirs = xtuner_reward("focal_loss")(chosen, rejected, avg_factor=1 / len(chosen))
    torch.testing.assert_close(ours, theirs, **EXACT)
    # The weight is not held constant in the backward, in theirs as in ours.
    for our_gradient, their_gradient in zip(
        _gradients(ours, chosen, rejected), _gradients(theirs, chosen, rejected), strict=True
    ):
        torch.testing.assert_close(our_gradient, their_gradient, **EXACT)


def test_without_focus_it_is_the_ranking_loss_of_both() -> None:
    chosen, rejected = _scores(2.0)
    ours = focal_ranking_loss(chosen, rejected, 0.0).mean()
    torch.testing.assert_close(ours, xtuner_reward("ranking_loss")(chosen, rejected, 1 / len(chosen)), **EXACT)
    torch.testing.assert_close(ours, openrlhf_models()[1].PairWiseLoss()(chosen, rejected), **EXACT)


def test_barrier_and_its_gradient_inside() -> None:
    score = torch.linspace(-4.99, 4.99, 999, dtype=torch.float64, requires_grad=True)
    ours, theirs = log_barrier(score, 5.0).sum(), xtuner_reward("log_barrier_penalty")(score, -5, 5)
    torch.testing.assert_close(ours, theirs.double(), atol=0, rtol=1e-6)  # theirs is in fp32
    (our_gradient,), (their_gradient,) = _gradients(ours, score), _gradients(theirs, score)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-4, rtol=1e-4)


def test_outside_the_barrier_xtuner_lets_go_and_ours_pulls_back() -> None:
    score = torch.tensor([-40.0, -5.0, -4.9995, 4.9995, 5.0, 40.0], dtype=torch.float64, requires_grad=True)
    theirs = xtuner_reward("log_barrier_penalty")(score, -5, 5)
    (none,) = _gradients(theirs, score)
    assert not none.any()
    (ours,) = _gradients(log_barrier(score, 5.0).sum(), score)
    assert (ours.sign() == score.sign()).all() and ours.abs().min() > 100


def test_xtuner_sums_what_we_average_at_half_the_weight() -> None:
    """Its default weight is 0.01 for the sum over both scores of a pair; 0.02 for their mean is the same number."""
    chosen, rejected = _scores(1.0)
    sums = xtuner_reward("log_barrier_penalty")(torch.cat([chosen, rejected]), -5, 5, avg_factor=1 / len(chosen))
    ours = ((log_barrier(chosen, 5.0) + log_barrier(rejected, 5.0)) / 2).mean()
    torch.testing.assert_close(0.01 * sums, (0.02 * ours).float(), **EXACT)
