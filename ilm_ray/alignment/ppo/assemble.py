"""An iteration's experience: the groups' outputs for each rollout, and PPO's arithmetic on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import gae_of, kl_estimate, normalized, policy_loss, token_rewards, value_loss
from ilm_ray.alignment.ppo.experience import Experience, Rollouts
from ilm_ray.config.alignment import PPOConfig


@dataclass(frozen=True)
class GroupOutputs:
    """The groups' outputs: one fp32 tensor (bool for masks) a sequence, one entry a response token; one score each."""

    rolled: Rollouts
    masks: list[Tensor]  # False: the policy did not choose this token
    old: list[Tensor]  # log-probabilities of the policy
    reference: list[Tensor]
    values: list[Tensor]
    scores: list[float]


@dataclass(frozen=True)
class Derived:
    """Results of the arithmetic: one fp32 tensor a sequence, one entry a response token."""

    kl: list[Tensor]  # nats, by the estimator of the settings
    rewards: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]


def derive(ppo: PPOConfig, outputs: GroupOutputs) -> Derived:
    """KL penalty and clipped score as rewards, then GAE."""
    bound = ppo.reward_clip
    clipped = [s if bound is None else min(max(s, -bound), bound) for s in outputs.scores]
    kl = [kl_estimate(o, f, ppo.kl_estimator) for o, f in zip(outputs.old, outputs.reference, strict=True)]
    rewards = [token_rewards(k, m, s, ppo.kl_coefficient) for k, m, s in zip(kl, outputs.masks, clipped, strict=True)]
    advantages, returns = gae_of(rewards, outputs.values, outputs.masks, ppo.discount, ppo.gae_lambda)
    if ppo.normalize_advantages:
        advantages = normalized(advantages, outputs.masks)
    return Derived(kl, rewards, advantages, returns)


def experience_of(outputs: GroupOutputs, derived: Derived) -> Experience:
    """The experience that the ranks of policy and critic train on."""
    rolled = outputs.rolled
    return Experience(
        rolled.sequences,
        rolled.prompt_lengths,
        outputs.masks,
        outputs.old,
        outputs.values,
        derived.advantages,
        derived.returns,
        rolled.version,
    )


def losses(ppo: PPOConfig, outputs: GroupOutputs, derived: Derived) -> dict[str, float]:
    """Mean losses over the counted tokens at the weights that sampled them, before any step."""
    mask = torch.cat(outputs.masks)
    old, values, advantages, returns = (
        torch.cat(parts)[mask] for parts in (outputs.old, outputs.values, derived.advantages, derived.returns)
    )
    return {
        "policy_loss": float(policy_loss(old, old, advantages, ppo.clip_range)[0].mean()),
        "value_loss": float(value_loss(values, returns, values, ppo.value_clip).mean()),
    }


def figures(outputs: GroupOutputs, derived: Derived) -> dict[str, Any]:
    """The iteration in plain numbers. reward: before clipping; kl: k1, nats a response; entropy: nats a token."""
    rolled, scores = outputs.rolled, outputs.scores
    kl = sequence_kl(outputs)
    gaps = torch.cat([(b - o).abs() for b, o in zip(rolled.behaviour, outputs.old, strict=True)])
    return {
        "reward": _mean(scores),
        "reward_by_domain": _by_domain(scores, rolled),
        "kl": _mean(kl),
        "kl_by_domain": _by_domain(kl, rolled),
        "response_tokens": _mean([float(len(r)) for r in rolled.responses]),
        "tokens": sum(map(len, rolled.sequences)),
        "entropy": -float(torch.cat(outputs.old).mean()),  # mean surprise of the sampled tokens
        "logprob_gap": float(gaps.mean()),
        "value": float(torch.cat(outputs.values).mean()),
        "return": float(torch.cat(derived.returns).mean()),
        "version": rolled.version,
    }


def _by_domain(figure: list[float], rolled: Rollouts) -> dict[str, float]:
    domains = sorted({p.domain for p in rolled.prompts})
    return {d: _mean([f for f, p in zip(figure, rolled.prompts, strict=True) if p.domain == d]) for d in domains}


def sequence_kl(outputs: GroupOutputs) -> list[float]:
    """k1 summed over each response, nats."""
    return [float((o - f).sum()) for o, f in zip(outputs.old, outputs.reference, strict=True)]


def one_a_domain_first(rolled: Rollouts, count: int) -> list[int]:
    """Numbers of `count` sequences to show, domains in turn."""
    turns: dict[str, int] = {}
    keys = []
    for number, prompt in enumerate(rolled.prompts):
        turns[prompt.domain] = turns.get(prompt.domain, 0) + 1
        keys.append((turns[prompt.domain], prompt.domain, number))
    return [number for _, _, number in sorted(keys)[:count]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
