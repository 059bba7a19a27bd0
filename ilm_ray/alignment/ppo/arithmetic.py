"""PPO's arithmetic (report section 4.2.3): KL penalty, GAE, losses, and the shares of ranks and micro-batches.

Advantage normalisation and value clipping are options and, as in the report, off by default. Every mean is over tokens
and over the whole optimizer step: neither the number of ranks nor the size of a micro-batch changes the gradient.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# exp() of a larger difference is of no use to anybody and may be infinite.
MAX_LOG_RATIO = 20.0


def kl_estimate(policy: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Estimate of KL(policy || reference) in nats from the log-probabilities of tokens that the policy drew.

    k1: unbiased, may be negative; k2: half the square, biased, never negative; k3: unbiased and never negative.
    """
    difference = policy - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.expm1((-difference).clamp(max=MAX_LOG_RATIO)) + difference
    raise ValueError(f"unknown KL estimator {estimator}")


def token_rewards(kl: Tensor, mask: Tensor, score: float, coefficient: float) -> Tensor:
    """Reward of each token of one response: minus the KL penalty; the last counted token also gets the score.

    kl: (tokens) nats; mask: (tokens) bool, False where the policy did not choose the token; result: (tokens).
    """
    rewards = torch.where(mask, -coefficient * kl, torch.zeros_like(kl))
    if mask.any():
        rewards[int(mask.nonzero()[-1])] += score
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, all (sequences, tokens), 0 where mask (bool) is False.

    A masked position (tool output, padding) is no step of the decision process: the value of the next counted token
    and the running sum are carried over it. Masked positions of `rewards` and `values` have no influence, even where
    they are NaN. After a sequence's last counted token the value is 0.
    """
    advantages = torch.zeros_like(values)
    next_value = running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        running = torch.where(mask[:, t], delta + discount * lam * running, running)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = running
    zero = torch.zeros_like(values)
    return torch.where(mask, advantages, zero), torch.where(mask, advantages + values, zero)


def gae_of(
    rewards: Sequence[Tensor], values: Sequence[Tensor], masks: Sequence[Tensor], discount: float, lam: float
) -> tuple[list[Tensor], list[Tensor]]:
    """`gae` for sequences of different lengths, one tensor (tokens) each."""
    r, v, m = (pad_sequence(list(parts), batch_first=True) for parts in (rewards, values, masks))
    advantages, returns = gae(r, v, m, discount, lam)
    lengths = [len(v) for v in values]
    return (
        [row[:n].clone() for row, n in zip(advantages, lengths, strict=True)],
        [row[:n].clone() for row, n in zip(returns, lengths, strict=True)],
    )


def policy_loss(log_ratio: Tensor, advantages: Tensor, low: float, high: float | None = None) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss per token, and a bool per token: the clip took its gradient. All (tokens).

    log_ratio: new less old log-probability, of the token or of its sequence. The ratio is held within 1 - `low` and
    1 + `high`; None: as far up as down.
    """
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    held = ratio.clamp(1 - low, 1 + (low if high is None else high))
    plain, clipped = -advantages * ratio, -advantages * held
    return torch.maximum(plain, clipped), clipped > plain


def value_loss(values: Tensor, returns: Tensor, old: Tensor | None = None, clip: float | None = None) -> Tensor:
    """Half the squared error per token, all (tokens).

    With `clip` it is that of the value held within `clip` of the `old` one, where that is larger: a step that leads
    away from the old value by more has no gradient unless it leads away from the return.
    """
    plain = (values - returns).square()
    if clip is None:
        return plain / 2
    if old is None:
        raise ValueError("value clipping needs the old values")
    held = old + (values - old).clamp(-clip, clip)
    return torch.maximum(plain, (held - returns).square()) / 2


def normalized(advantages: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Mean 0 and deviation 1 (unbiased) over the counted tokens of all sequences; 0 elsewhere."""
    counted = torch.cat([a[m] for a, m in zip(advantages, masks, strict=True)])
    if len(counted) < 2:
        return [torch.zeros_like(a) for a in advantages]
    mean, deviation = counted.mean(), counted.std()
    return [
        torch.where(m, (a - mean) / (deviation + 1e-8), torch.zeros_like(a))
        for a, m in zip(advantages, masks, strict=True)
    ]


def prompt_numbers(iteration: int, count: int, total: int, seed: int) -> list[int]:
    """Numbers of an iteration's prompts among `total`: a stretch of an endless run of shuffled epochs."""
    epochs = range(iteration * count // total, ((iteration + 1) * count - 1) // total + 1)
    stream = np.concatenate([np.random.default_rng([seed, epoch]).permutation(total) for epoch in epochs])
    first = iteration * count - epochs[0] * total
    return stream[first : first + count].tolist()


def further_prompts(iteration: int, turn: int, count: int, total: int, asked: Collection[int], seed: int) -> list[int]:
    """Numbers of up to `count` prompts among `total` that are not in `asked`, for a further turn of an iteration."""
    order = np.random.default_rng([seed, iteration, turn, 1]).permutation(total).tolist()
    known = set(asked)
    return [number for number in order if number not in known][:count]


def share_out(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Numbers of the sequences each rank gets, balanced by tokens: the longest first, always to the least loaded."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = loads.index(min(loads))
        shares[rank].append(number)
        loads[rank] += lengths[number]
    return shares


def cut_micro_batches(numbers: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut a rank's sequences into micro-batches of at most `budget` tokens (one longer sequence stays alone)."""
    micros: list[list[int]] = []
    load = budget
    for number in numbers:
        if load + lengths[number] > budget:
            micros.append([])
            load = 0
        micros[-1].append(number)
        load += lengths[number]
    return micros


def even_micro_batches(shares: Sequence[Sequence[int]], lengths: Sequence[int], budget: int) -> list[list[list[int]]]:
    """[rank][micro-batch][sequence]: equally many micro-batches for every rank, some perhaps empty.

    Ranks that share a model meet in every forward and backward; one with fewer of them would leave the rest waiting.
    """
    cut = [cut_micro_batches(share, lengths, budget) for share in shares]
    most = max(map(len, cut))
    return [micros + [[] for _ in range(most - len(micros))] for micros in cut]


def mixed_micro_batches(
    lengths: Sequence[int], numbers: Sequence[int], mixed: int, context: int, ranks: int, budget: int
) -> list[list[list[int]]]:
    """[rank][micro-batch][sequence] of a step on the rollouts `numbers` and on `mixed` pre-training sequences.

    lengths: tokens of every rollout. Pre-training sequence k has `context` tokens and the number len(lengths) + k here.
    A micro-batch has at most `budget` tokens of both kinds together, its rollouts first.
    """
    balanced = share_out([lengths[i] for i in numbers], ranks)
    shares = [
        [*(numbers[i] for i in share), *range(len(lengths) + rank, len(lengths) + mixed, ranks)]
        for rank, share in enumerate(balanced)
    ]
    return even_micro_batches(shares, [*lengths, *[context] * mixed], budget)


def plan_updates(lengths: Sequence[int], updates: int, seed: list[int]) -> list[list[int]]:
    """Numbers of the sequences of each optimizer step of one pass: shuffled, counts differ by one at most."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [part.tolist() for part in np.array_split(order, min(updates, len(lengths)))]
