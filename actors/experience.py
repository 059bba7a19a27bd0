"""Puts rollouts, log-probabilities, values and scores together into what policy and critic train on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.group import Figures, step
from ilm_ray.alignment.experience import Experience, Rollouts, gather_numbered, merge
from ilm_ray.alignment.ppo import gae_of, kl_estimate, token_rewards
from ilm_ray.config.schema import PPOConfig
from ilm_ray.observe import metrics


@dataclass(frozen=True)
class Parts:
    """Which of the arguments of `assemble` belong to whom: counts of engines and ranks, in this order."""

    rollouts: int
    policy: int
    reference: int
    critic: int
    reward: int


class ExperienceMaker:
    """A single actor: its work is small beside a forward, and the driver may hold no tensor."""

    def __init__(self, rank: int, world: int, settings: PPOConfig) -> None:
        self.ppo = settings

    @step
    def build(self) -> tuple[None, Figures]:
        return None, {}

    @step
    def assemble(self, parts: Parts, samples: int, *args: Any) -> tuple[Experience, Figures]:
        """args: what the ranks of the five groups returned. The figures carry `samples` sequences, as token ids."""
        queue = iter(args)
        rollouts, old, reference, values, scores = (
            [next(queue) for _ in range(count)]
            for count in (parts.rollouts, parts.policy, parts.reference, parts.critic, parts.reward)
        )
        rolled = merge(rollouts)
        by_number = {number: score for part in scores for number, score in part.items()}
        experience, shown = make_experience(
            self.ppo,
            rolled,
            gather_numbered(old),
            gather_numbered(reference),
            gather_numbered(values),
            [by_number[i] for i in range(len(by_number))],
            samples,
        )
        metrics.gauge(metrics.REWARD_MEAN).set(shown["reward"])
        metrics.gauge(metrics.KL).set(shown["kl"])
        metrics.gauge(metrics.RESPONSE_TOKENS).set(shown["response_tokens"])
        return experience, shown


def make_experience(
    ppo: PPOConfig,
    rolled: Rollouts,
    old: Sequence[Tensor],
    reference: Sequence[Tensor],
    values: Sequence[Tensor],
    scores: Sequence[float],
    samples: int = 0,
) -> tuple[Experience, Figures]:
    """KL penalty and score as rewards, then GAE; and the figures of the iteration. Tensors: one a response token."""
    # All response tokens are the policy's own today; tool output will be False here.
    masks = [torch.ones(len(r), dtype=torch.bool) for r in rolled.responses]
    bound = ppo.reward_clip
    clipped = [s if bound is None else min(max(s, -bound), bound) for s in scores]
    rewards = [
        token_rewards(kl_estimate(o, f, ppo.kl_estimator), m, s, ppo.kl_coefficient)
        for o, f, m, s in zip(old, reference, masks, clipped, strict=True)
    ]
    advantages, returns = gae_of(rewards, values, masks, ppo.discount, ppo.gae_lambda)
    experience = Experience(
        rolled.sequences, rolled.prompt_lengths, masks, list(old), advantages, returns, rolled.version
    )
    kl = [float((o - f).sum()) for o, f in zip(old, reference, strict=True)]
    gaps = torch.cat([(b - o).abs() for b, o in zip(rolled.behaviour, old, strict=True)])
    everything = torch.cat(list(old))
    domains = sorted({p.domain for p in rolled.prompts})
    by_domain = {d: _mean([s for s, p in zip(scores, rolled.prompts, strict=True) if p.domain == d]) for d in domains}
    return experience, {
        "reward": _mean(scores),
        "reward_by_domain": by_domain,
        "kl": _mean(kl),
        "response_tokens": _mean([float(len(r)) for r in rolled.responses]),
        "tokens": sum(map(len, rolled.sequences)),
        "entropy": -float(everything.mean()),  # nats a token: mean surprise of the sampled tokens
        "logprob_gap": float(gaps.mean()),
        "value": float(torch.cat(list(values)).mean()),
        "return": float(torch.cat(returns).mean()),
        "version": rolled.version,
        "samples": [
            {
                "id": rolled.prompts[i].id,
                "domain": rolled.prompts[i].domain,
                "prompt": rolled.prompts[i].ids,
                "response": rolled.responses[i],
                "reward": scores[i],
                "kl": kl[i],
            }
            for i in _one_a_domain_first(rolled, samples)
        ],
    }


def _one_a_domain_first(rolled: Rollouts, count: int) -> list[int]:
    """Numbers of the sequences to show: every domain gets its turn."""
    turns: dict[str, int] = {}
    keys = []
    for number, prompt in enumerate(rolled.prompts):
        turns[prompt.domain] = turns.get(prompt.domain, 0) + 1
        keys.append((turns[prompt.domain], prompt.domain, number))
    return [number for _, _, number in sorted(keys)[:count]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
