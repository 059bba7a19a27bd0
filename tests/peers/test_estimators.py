"""Estimators without a critic, sequence ratios, means of the loss and importance weights against verl and OpenRLHF.

TRL 1.11.0 computes the same inside methods of its trainers, which do not run alone: read, not run (docs/alignment.md).
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ilm_ray.alignment.ppo.assemble import token_policy_loss
from ilm_ray.alignment.ppo.estimators import estimated, importance_weights, token_shares
from ilm_ray.config.alignment import PPOConfig
from tests.peers.cases import CONTIGUOUS, MASKS, case
from tests.peers.systems import openrlhf_models, require, verl_algorithms

require("verl", "openrlhf")
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
GROUPS = [0, 1, 0, 1, 0]  # as many answers as a case has rows; the first rows where there are fewer
WITH_PAIRS = [name for name, mask in MASKS.items() if len(mask) > 2 and mask.any(-1).all()]


def _ours(name: str, rewards: Tensor, mask: Tensor, discount: float = 1.0) -> Tensor:
    return torch.stack(estimated(name, list(rewards), list(mask), GROUPS[: len(rewards)], discount))


@pytest.mark.parametrize("name", WITH_PAIRS)
@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce++_baseline"])
def test_group_estimators_are_verls(estimator: str, name: str) -> None:
    c = case(MASKS[name], 10)
    algorithms = verl_algorithms()
    rewards = torch.where(c.mask, c.rewards, torch.zeros_like(c.rewards))
    index = np.array(GROUPS[: len(rewards)], dtype=object)
    theirs = {
        "grpo": lambda r: algorithms.compute_grpo_outcome_advantage(r, c.mask.double(), index),
        "dr_grpo": lambda r: algorithms.compute_grpo_outcome_advantage(
            r, c.mask.double(), index, norm_adv_by_std_in_grpo=False
        ),
        "rloo": lambda r: algorithms.compute_rloo_outcome_advantage(r, c.mask.double(), index),
        "reinforce++_baseline": lambda r: algorithms.compute_reinforce_plus_plus_baseline_outcome_advantage(
            r, c.mask.double(), index
        ),
    }
    if estimator == "reinforce++_baseline" and GROUPS[: len(rewards)].count(1) == 1:
        rewards[1] = 0.0  # alone in its group: verl leaves its score as it is, ours is 0, and whitening spreads that
    found, expected = _ours(estimator, rewards, c.mask), theirs[estimator](rewards.clone())[0]
    alone = [GROUPS[: len(rewards)].count(group) == 1 for group in GROUPS[: len(rewards)]]
    for row, (mine, other) in enumerate(zip(found, expected, strict=True)):
        if alone[row] and estimator != "reinforce++_baseline":
            # An answer without another to compare it with: verl takes its score for its advantage.
            torch.testing.assert_close(other[c.mask[row]], rewards[row].sum().expand(int(c.mask[row].sum())), **EXACT)
            assert not mine.any()
        else:
            torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("name", [name for name, mask in MASKS.items() if mask.any(-1).all()])
def test_reinforce_plus_plus_is_verls(name: str, discount: float) -> None:
    c = case(MASKS[name], 11)
    from verl.trainer.config import AlgoConfig  # type: ignore[import-not-found,unused-ignore]

    rewards = torch.where(c.mask, c.rewards, torch.zeros_like(c.rewards))
    theirs, _ = verl_algorithms().compute_reinforce_plus_plus_outcome_advantage(
        rewards, c.mask.double(), AlgoConfig(gamma=discount)
    )
    torch.testing.assert_close(_ours("reinforce++", rewards, c.mask, discount), theirs, atol=2e-6, rtol=2e-6)


def _our_loss(ppo: PPOConfig, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    counts = [int(n) for n in mask.sum(-1)]
    shares = torch.tensor(token_shares(counts, ppo.loss_mean, mask.shape[1]), dtype=torch.float64)
    each, _ = token_policy_loss(
        ppo, new[mask], old[mask], advantages[mask], weights[mask], old[mask], [n for n in counts if n]
    )
    return (each * shares.repeat_interleave(torch.tensor(counts))).sum()


def _with_gradient(loss: Any, new: Tensor) -> tuple[Tensor, Tensor]:
    variable = new.clone().requires_grad_()
    value = loss(variable)
    (gradient,) = torch.autograd.grad(value, variable)
    return value.detach(), gradient


MODES = {"tokens": "token-mean", "sequences": "seq-mean-token-mean", "longest": "seq-mean-token-sum-norm"}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("mean", MODES)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_losses_and_gradients_are_verls(ratio: str, mean: str, name: str) -> None:
    c = case(MASKS[name], 12)
    from verl.workers.config import ActorConfig  # type: ignore[import-not-found,unused-ignore]

    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, clip_ratio_low=0.2,
        clip_ratio_high=0.28, clip_ratio_c=1e9,
    )  # fmt: skip
    loss = verl_algorithms().get_policy_loss_fn("vanilla" if ratio == "token" else "gspo")
    ppo = PPOConfig.model_validate({"ratio": ratio, "loss_mean": mean, "clip_range": 0.2, "clip_range_high": 0.28})
    new = c.reference + 0.3 * (c.policy - c.reference)
    weights = c.values.abs()  # any, of the sampler's mismatch
    ours = _with_gradient(lambda x: _our_loss(ppo, x, c.reference, c.rewards, c.mask, weights), new)
    theirs = _with_gradient(
        lambda x: loss(
            c.reference, x, c.rewards, c.mask.double(), MODES[mean], config=config, rollout_is_weights=weights
        )[0],
        new,
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("name", CONTIGUOUS[:3])
def test_openrlhfs_gspo_is_ours_with_one_advantage_a_sequence(name: str) -> None:
    c = case(MASKS[name], 13)
    advantages = c.scores[:, None].expand_as(c.rewards)
    new = c.reference + 0.3 * (c.policy - c.reference)
    ppo = PPOConfig(ratio="sequence", loss_mean="sequences", clip_range=0.2, clip_range_high=0.28)
    ones = torch.ones_like(new)
    ours = _with_gradient(lambda x: _our_loss(ppo, x, c.reference, advantages, c.mask, ones), new)
    loss = openrlhf_models()[1].PolicyLoss(0.2, 0.28, policy_loss_type="gspo")
    theirs = _with_gradient(lambda x: loss(x, c.reference, advantages, action_mask=c.mask.double())[0], new)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("how", ["truncate", "mask"])
def test_importance_weights_are_verls(how: str, level: str, name: str) -> None:
    """Its mask is IcePop's, within both bounds. Behind the mask its weights are 0 and ours 1: neither counts."""
    c = case(MASKS[name], 14)
    from verl.trainer.ppo.rollout_corr_helper import (  # type: ignore[import-not-found,unused-ignore]
        compute_rollout_correction_weights,
    )

    # Small enough that not all sequences are cut: verl's figures divide by the mean weight.
    policy, bound = c.reference + (0.2 if level == "token" else 0.03) * (c.policy - c.reference), 1.25
    threshold = bound if how == "truncate" else f"{1 / bound}_{bound}"
    theirs, _ = compute_rollout_correction_weights(policy - c.reference, c.mask.double(), level, threshold)
    ours = torch.stack(importance_weights(list(policy), list(c.reference), list(c.mask), how, level, bound))
    torch.testing.assert_close(ours[c.mask], theirs[c.mask], **EXACT)
    assert not theirs[~c.mask].any() and bool((ours[~c.mask] == 1).all())
