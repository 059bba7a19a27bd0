"""KL estimators and token rewards against verl's and OpenRLHF's functions."""

from typing import Any

import pytest
import torch

from ilm_ray.alignment.ppo.arithmetic import kl_estimate, token_rewards
from tests.peers.cases import MASKS, case
from tests.peers.systems import openrlhf_models, require, verl_algorithms

require("verl", "openrlhf")
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
CAP = 10.0
LARGE = torch.tensor([-700.0, -30.0, -20.0, -12.0, -10.0, -5.0, 0.0, 5.0, 10.0, 12.0, 20.0, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_usual_log_ratios_give_the_same_estimate_everywhere(name: str) -> None:
    verl, (utils, _) = verl_algorithms(), openrlhf_models()
    c = case(MASKS["full, no end token"], 0)
    policy = c.reference + (c.policy - c.reference) / 2
    ours = kl_estimate(policy, c.reference, name)
    assert ours.abs().max() < CAP
    torch.testing.assert_close(ours, verl.kl_penalty(policy, c.reference, name), **EXACT)
    theirs = utils.compute_approx_kl(policy, c.reference, kl_estimator=name)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-6, rtol=1e-5)  # it computes in fp32


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_large_log_ratios_are_capped_by_them_and_told_by_us(name: str) -> None:
    verl, (utils, _) = verl_algorithms(), openrlhf_models()
    zero = torch.zeros_like(LARGE)
    ours, capped = kl_estimate(LARGE, zero, name), kl_estimate(LARGE, zero, name).clamp(-CAP, CAP)
    assert ours.isfinite().all() and (ours != capped).any()
    # OpenRLHF caps every estimator at 10 nats a token, verl k3 alone.
    torch.testing.assert_close(utils.compute_approx_kl(LARGE, zero, kl_estimator=name), capped.float(), **EXACT)
    torch.testing.assert_close(verl.kl_penalty(LARGE, zero, name), capped if name == "k3" else ours, **EXACT)


@pytest.mark.parametrize("name", MASKS)
def test_openrlhf_gives_our_token_rewards(name: str) -> None:
    utils, _ = openrlhf_models()
    c = case(MASKS[name], 1)
    kl = kl_estimate(c.policy, c.reference, "k1")
    ours = torch.stack([token_rewards(k, m, float(s), 0.01) for k, m, s in zip(kl, c.mask, c.scores, strict=True)])
    theirs = utils.compute_reward(c.scores, 0.01, kl, action_mask=c.mask)
    torch.testing.assert_close(ours[c.mask], theirs[c.mask], **EXACT)
    assert not ours[~c.mask].any()
    # Behind the mask it leaves the penalty, and in a row without a counted token also the score, at the row's end.
    left = -0.01 * kl
    for row in range(len(kl)):
        if not c.mask[row].any():
            left[row, -1] += c.scores[row]
    torch.testing.assert_close(theirs[~c.mask], left[~c.mask], **EXACT)


@pytest.mark.parametrize("name", MASKS)
def test_verl_gives_our_token_rewards(name: str) -> None:
    verl = verl_algorithms()
    from tensordict import TensorDict  # type: ignore[import-not-found,unused-ignore]
    from verl import DataProto  # type: ignore[import-not-found,unused-ignore]
    from verl.trainer.ppo.ray_trainer import apply_kl_penalty  # type: ignore[import-not-found,unused-ignore]

    c = case(MASKS[name], 2)
    scores = torch.zeros_like(c.values)  # verl's reward manager puts the score on the last counted token
    for row, mask in enumerate(c.mask):
        if mask.any():
            scores[row, int(mask.nonzero()[-1])] = c.scores[row]
    batch = {
        "response_mask": c.mask.double(),
        "token_level_scores": scores,
        "old_log_probs": c.policy,
        "ref_log_prob": c.reference,
    }
    data = DataProto(TensorDict(batch, batch_size=len(scores)))
    theirs = apply_kl_penalty(data, verl.FixedKLController(0.01), "k3")[0].batch["token_level_rewards"]
    kl = kl_estimate(c.policy, c.reference, "k3")
    ours = torch.stack([token_rewards(k, m, float(s), 0.01) for k, m, s in zip(kl, c.mask, c.scores, strict=True)])
    torch.testing.assert_close(ours, theirs, **EXACT)
