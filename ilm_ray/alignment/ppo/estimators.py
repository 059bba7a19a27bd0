"""Advantages without a critic, and the corrections around them that groups of answers and other samplers need.

Sources: GRPO (DeepSeekMath, arXiv 2402.03300), its form without the deviation (Dr. GRPO, 2503.20783), RLOO
(2402.14740), REINFORCE++ (2501.03262), soft penalty of overlong answers and groups with equal scores (DAPO,
2503.14476), sequence
ratios (GSPO, 2507.18071), truncated and masked importance weights (IMPALA's rho, 1802.01561, between two engines with
the same weights). A score of NaN stands for an answer without a score: it takes no part in its group.
"""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import MAX_LOG_RATIO, gae_of, normalized

EPSILON = 1e-6  # beside a group's deviation, as in verl


def group_advantages(scores: Sequence[float], groups: Sequence[Hashable], estimator: str) -> list[float]:
    """Each score against the others of its group, one number an answer.

    grpo: (score - mean) / deviation (unbiased); dr_grpo and reinforce++_baseline: score - mean; rloo: score - mean of
    the others. 0 where a group has one score alone, for there is nothing to compare it with, and for a score of NaN.
    """
    advantages = [0.0] * len(scores)
    for numbers in _members(scores, groups):
        if len(numbers) < 2:
            continue
        own = torch.tensor([scores[n] for n in numbers], dtype=torch.float64)
        above = own - own.mean()
        if estimator == "rloo":
            above = above * len(own) / (len(own) - 1)
        elif estimator == "grpo":
            above = above / (own.std() + EPSILON)
        elif estimator not in ("dr_grpo", "reinforce++_baseline"):
            raise ValueError(f"estimator {estimator} compares no groups")
        for number, value in zip(numbers, above.tolist(), strict=True):
            advantages[number] = value
    return advantages


def estimated(
    estimator: str,
    rewards: Sequence[Tensor],
    masks: Sequence[Tensor],
    groups: Sequence[Hashable],
    discount: float,
) -> list[Tensor]:
    """Advantages by an estimator without a critic: one tensor (tokens) a sequence, 0 where its mask is False.

    rewards: (tokens) of each sequence, score and any KL penalty. The group estimators compare the sums over sequences.
    reinforce++: the discounted rewards still to come, normalised over all counted tokens; reinforce++_baseline: scores
    less their group's mean, normalised likewise. A sequence without a counted token has no score.
    """
    zeros = [torch.zeros_like(r) for r in rewards]
    if estimator == "reinforce++":
        return normalized(gae_of(rewards, zeros, masks, discount, 1.0)[0], masks)
    scores = [float(r[m].double().sum()) if m.any() else math.nan for r, m in zip(rewards, masks, strict=True)]
    compared = group_advantages(scores, groups, estimator)
    spread = [torch.where(m, z + a, z) for a, z, m in zip(compared, zeros, masks, strict=True)]
    return normalized(spread, masks) if estimator == "reinforce++_baseline" else spread


def in_equal_groups(scores: Sequence[float], groups: Sequence[Hashable]) -> list[bool]:
    """Whether all scores of an answer's group are the same: such a group teaches nothing. True for NaN and for a score
    that is alone."""
    equal = [True] * len(scores)
    for numbers in _members(scores, groups):
        if len({scores[n] for n in numbers}) > 1:
            for number in numbers:
                equal[number] = False
    return equal


def overlong_penalty(length: int, longest: int, buffer: int) -> float:
    """From 0 to -1, in a straight line over the last `buffer` tokens below `longest`; without a buffer always 0."""
    if not buffer:
        return 0.0
    return -min(max(length - (longest - buffer), 0) / buffer, 1.0)


def sequence_log_ratio(log_ratio: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean log-ratio of each sequence at all of its tokens (tokens): the ratio of GSPO, a geometric mean.

    log_ratio: (tokens) of sequences of `lengths` counted tokens. The gradient goes through each token's own ratio, so
    advantages may differ within a sequence (GSPO-token).
    """
    means = torch.cat([part.detach().mean().expand(len(part)) for part in log_ratio.split(list(lengths))])
    return means + (log_ratio - log_ratio.detach())


def importance_weights(
    policy: Sequence[Tensor], sampler: Sequence[Tensor], masks: Sequence[Tensor], how: str, level: str, bound: float
) -> list[Tensor]:
    """Weights policy / sampler of tokens that the sampler drew, a tensor (tokens) a sequence; 1 where masks are False.

    policy, sampler: log-probabilities. level: `token`, or `sequence`, whose ratio is the product over its tokens, at
    all of them. how: `truncate` holds them at `bound` at most; `mask` makes those beyond `bound` or below 1 / `bound`
    0; `none` gives 1 everywhere.
    """
    weights = []
    for mine, theirs, mask in zip(policy, sampler, masks, strict=True):
        one = torch.ones_like(mine)
        if how == "none":
            weights.append(one)
            continue
        log = torch.where(mask, mine - theirs, torch.zeros_like(mine))
        if level == "sequence":
            log = log.sum().expand(len(log))
        elif level != "token":
            raise ValueError(f"unknown level {level}")
        ratio = log.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        if how == "truncate":
            ratio = ratio.clamp(max=bound)
        elif how == "mask":
            ratio = torch.where((ratio <= bound) & (ratio >= 1 / bound), ratio, torch.zeros_like(ratio))
        else:
            raise ValueError(f"unknown correction {how}")
        weights.append(torch.where(mask, ratio, one))
    return weights


def token_shares(counts: Sequence[int], how: str, longest: int) -> list[float]:
    """Weight of a token's loss in the loss of a step, one number a sequence; counts: counted tokens of each.

    tokens: all tokens count the same; sequences: all sequences do, each by the mean over its tokens (GRPO, GSPO);
    longest: a sequence's sum over `longest`, mean over sequences (Dr. GRPO: no answer gains by being long or short).
    Sequences without a counted token do not count, and have the share 0.
    """
    counting = sum(count > 0 for count in counts)
    if how == "tokens":
        total = sum(counts)
        return [1 / total if count else 0.0 for count in counts]
    if how == "sequences":
        return [1 / (counting * count) if count else 0.0 for count in counts]
    if how == "longest":
        return [1 / (counting * longest) if count else 0.0 for count in counts]
    raise ValueError(f"unknown mean {how}")


def _members(scores: Sequence[float], groups: Sequence[Hashable]) -> list[list[int]]:
    """Numbers of the answers of each group that have a score."""
    members: dict[Hashable, list[int]] = {}
    for number, (score, group) in enumerate(zip(scores, groups, strict=True)):
        if not math.isnan(score):
            members.setdefault(group, []).append(number)
    return list(members.values())
