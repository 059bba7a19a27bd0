"""An iteration's experience: the groups' outputs for each rollout, and PPO's arithmetic on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import gae_of, kl_estimate, normalized, policy_loss, token_rewards, value_loss
from ilm_ray.alignment.ppo.estimators import (
    estimated,
    importance_weights,
    in_equal_groups,
    overlong_penalty,
    sequence_log_ratio,
    token_shares,
)
from ilm_ray.alignment.ppo.experience import Experience, Rollouts
from ilm_ray.config.alignment import PPOConfig


@dataclass(frozen=True)
class GroupOutputs:
    """The groups' outputs: one fp32 tensor (bool for masks) a sequence, one entry a response token; one score each."""

    rolled: Rollouts
    masks: list[Tensor]  # False: the policy did not choose this token
    old: list[Tensor]  # log-probabilities of the policy
    reference: list[Tensor]
    values: list[Tensor]  # zeros where there is no critic
    scores: list[float]  # NaN: the answer has none, and nothing is trained on it
    parts: list[dict[str, float]]  # of each score, by name, not yet weighed


@dataclass(frozen=True)
class Derived:
    """Results of the arithmetic: one fp32 tensor (bool for masks) a sequence, one entry a response token."""

    kl: list[Tensor]  # nats, by the estimator of the settings
    rewards: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]  # zeros where there is no critic
    weights: list[Tensor]  # importance weights
    masks: list[Tensor]  # True: the token is trained on


def trained_scores(ppo: PPOConfig, rolled: Rollouts, scores: Sequence[float]) -> list[float]:
    """Scores as the estimator sees them: clipped, less the penalty for length."""
    bound = ppo.reward_clip
    clipped = [s if bound is None else min(max(s, -bound), bound) for s in scores]
    late = [overlong_penalty(len(r), ppo.max_new_tokens, ppo.overlong_buffer) for r in rolled.responses]
    return [s + ppo.overlong_penalty * p for s, p in zip(clipped, late, strict=True)]


def derive(ppo: PPOConfig, outputs: GroupOutputs) -> Derived:
    """KL penalty and score (clipped, less the penalty for length) as rewards, then the estimator of the settings."""
    groups, whole = outputs.rolled.groups, trained_scores(ppo, outputs.rolled, outputs.scores)
    left_out = in_equal_groups(whole, groups) if ppo.skip_equal_groups else [math.isnan(s) for s in whole]
    masks = [
        torch.zeros_like(m) if out or math.isnan(s) else m
        for m, s, out in zip(outputs.masks, whole, left_out, strict=True)
    ]
    kl = [kl_estimate(o, f, ppo.kl_estimator) for o, f in zip(outputs.old, outputs.reference, strict=True)]
    coefficient = ppo.kl_coefficient if ppo.kl_in == "reward" else 0.0
    rewards = [token_rewards(k, m, s, coefficient) for k, m, s in zip(kl, masks, whole, strict=True)]
    if ppo.has_critic:
        advantages, returns = gae_of(rewards, outputs.values, masks, ppo.discount, ppo.gae_lambda)
    else:
        advantages = estimated(ppo.estimator, rewards, masks, groups, ppo.discount)
        returns = [torch.zeros_like(r) for r in rewards]
    if ppo.normalize_advantages:
        advantages = normalized(advantages, masks)
    how, level = ppo.correction, ppo.correction_level
    weights = importance_weights(outputs.old, outputs.rolled.behaviour, masks, how, level, ppo.correction_bound)
    return Derived(kl, rewards, advantages, returns, weights, masks)


def experience_of(outputs: GroupOutputs, derived: Derived) -> Experience:
    """The experience that the ranks of policy and critic train on: sequences with a counted token, at least one."""
    rolled = outputs.rolled
    chosen = [n for n, mask in enumerate(derived.masks) if mask.any()] or [0]

    def those(parts: Sequence[Tensor]) -> list[Tensor]:
        return [parts[n] for n in chosen]

    sequences, prompt_lengths = rolled.sequences, rolled.prompt_lengths
    return Experience(
        [sequences[n] for n in chosen],
        [prompt_lengths[n] for n in chosen],
        those(derived.masks),
        those(outputs.old),
        those(outputs.values),
        those(derived.advantages),
        those(derived.returns),
        those(outputs.reference),
        those(derived.weights),
        rolled.version,
    )


def token_policy_loss(
    ppo: PPOConfig,
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    weights: Tensor,
    reference: Tensor,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The policy's loss by token, and a bool per token: the clip took its gradient. All (tokens), the counted ones of
    sequences of `lengths`."""
    log_ratio = new - old
    if ppo.ratio == "sequence":
        log_ratio = sequence_log_ratio(log_ratio, lengths)
    each, clipped = policy_loss(log_ratio, advantages, ppo.clip_range, ppo.clip_range_high)
    each = weights * each
    if ppo.kl_in == "loss":
        each = each + ppo.kl_coefficient * kl_estimate(new, reference, ppo.kl_estimator)
    return each, clipped


def losses(ppo: PPOConfig, outputs: GroupOutputs, derived: Derived) -> dict[str, float]:
    """Mean losses over the counted tokens at the weights that sampled them, before any step."""
    mask = torch.cat(derived.masks)
    old, values, advantages, returns, weights, reference = (
        torch.cat(parts)[mask]
        for parts in (
            outputs.old,
            outputs.values,
            derived.advantages,
            derived.returns,
            derived.weights,
            outputs.reference,
        )
    )
    counts = [int(m.sum()) for m in derived.masks]
    shares = [share for share, n in zip(token_shares(counts, ppo.loss_mean, ppo.max_new_tokens), counts, strict=True)
              for _ in range(n)]  # fmt: skip
    each, _ = token_policy_loss(ppo, old, old, advantages, weights, reference, counts)
    found = {"policy_loss": float((each.double() * torch.tensor(shares, dtype=torch.float64)).sum())}
    if ppo.has_critic:
        found["value_loss"] = float(value_loss(values, returns, values, ppo.value_clip).sum() / max(len(values), 1))
    return found


def figures(ppo: PPOConfig, outputs: GroupOutputs, derived: Derived) -> dict[str, Any]:
    """The iteration in plain numbers. reward: before clipping; kl: k1, nats a response; entropy: nats a token.

    Rewards are means over answers with a score; `unscored` counts the others. cut_share: of answers with max_new_tokens
    tokens, which the limit has cut or which end right there.
    """
    rolled, scores = outputs.rolled, outputs.scores
    kl = sequence_kl(outputs)
    gaps = torch.cat([o - b for b, o in zip(rolled.behaviour, outputs.old, strict=True)])
    counted = torch.cat(derived.masks)
    row = {
        "reward": _mean(scores),
        "reward_by_domain": _by_domain(scores, rolled),
        "kl": _mean(kl),
        "kl_by_domain": _by_domain(kl, rolled),
        "response_tokens": _mean([float(len(r)) for r in rolled.responses]),
        "cut_share": _mean([float(len(r) >= ppo.max_new_tokens) for r in rolled.responses]),
        "tokens": sum(map(len, rolled.sequences)),
        "entropy": -float(torch.cat(outputs.old).mean()),  # mean surprise of the sampled tokens
        "logprob_gap": float(gaps.abs().mean()),
        "reward_parts": _parts_by_domain(outputs),
        "unscored": sum(map(math.isnan, scores)),
        "trained_share": float(counted.float().mean()),
        "version": rolled.version,
    }
    if ppo.has_critic:
        row |= {"value": float(torch.cat(outputs.values).mean()), "return": float(torch.cat(derived.returns).mean())}
    if ppo.correction != "none":
        weights = torch.cat(derived.weights)[counted]
        changed = (weights == 0) | (weights >= ppo.correction_bound)
        row |= {
            "mismatch_kl": -float(gaps.mean()),  # KL(sampler || policy), k1, nats a token
            "mismatch_ratio_max": float(gaps.max().exp()),
            "weight_mean": float(weights.mean()) if len(weights) else 1.0,
            "corrected_share": float(changed.float().mean()) if len(weights) else 0.0,
        }
    return row


def _by_domain(figure: list[float], rolled: Rollouts) -> dict[str, float]:
    domains = sorted({p.domain for p in rolled.prompts})
    return {d: _mean([f for f, p in zip(figure, rolled.prompts, strict=True) if p.domain == d]) for d in domains}


def _parts_by_domain(outputs: GroupOutputs) -> dict[str, dict[str, float]]:
    """Part -> domain -> its mean there, over the answers that have it."""
    domains = [prompt.domain for prompt in outputs.rolled.prompts]
    found: dict[str, dict[str, list[float]]] = {}
    for parts, domain in zip(outputs.parts, domains, strict=True):
        for name, value in parts.items():
            found.setdefault(name, {}).setdefault(domain, []).append(value)
    return {name: {d: _mean(row[d]) for d in sorted(row)} for name, row in sorted(found.items())}


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
    """Mean of those that are numbers; 0 where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / max(len(known), 1)
