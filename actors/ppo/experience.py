"""Puts rollouts, log-probabilities, values and scores together into what policy and critic train on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.group import Figures, step
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.assemble import Said, derive, experience_of, figures, one_a_domain_first, sequence_kl
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, gather_numbered, merge
from ilm_ray.alignment.ppo.rollout_file import read_rollouts, write_rollouts
from ilm_ray.config.alignment import PPOConfig


@dataclass(frozen=True)
class Parts:
    """Which of the arguments of `assemble` belong to whom: counts of engines and ranks, in this order."""

    rollouts: int
    policy: int  # 0: it was not asked, for the rollouts are of older weights
    reference: int
    critic: int
    reward: int


@dataclass(frozen=True)
class ExperienceSettings:
    """What the actor that assembles experience is started with."""

    ppo: PPOConfig
    folder: Path | None  # of the run's PPO stage: gets each iteration's experience as a file; None: no files


class ExperienceMaker:
    """A single actor: its work is small beside a forward, and the driver may hold no tensor."""

    def __init__(self, rank: int, world: int, settings: ExperienceSettings) -> None:
        self.settings = settings

    @step
    def build(self) -> tuple[None, Figures]:
        return None, {}

    @step
    def assemble(self, parts: Parts, iteration: int, samples: int, *args: Any) -> tuple[Experience, Figures]:
        """args: what the ranks of the five groups returned. The figures carry `samples` sequences, as token ids."""
        queue = iter(args)
        rollouts, old, reference, values, scores = (
            [next(queue) for _ in range(count)]
            for count in (parts.rollouts, parts.policy, parts.reference, parts.critic, parts.reward)
        )
        rolled = merge(rollouts)
        by_number = {number: score for part in scores for number, score in part.items()}
        said = Said(
            rolled,
            # All response tokens are the policy's own today; tool output will be False here.
            [torch.ones(len(r), dtype=torch.bool) for r in rolled.responses],
            # Of answers by older weights: what they were sampled with, or the ratio would not be to their distribution.
            gather_numbered(old) if old else rolled.behaviour,
            gather_numbered(reference),
            gather_numbered(values),
            [by_number[i] for i in range(len(by_number))],
        )
        derived = derive(self.settings.ppo, said)
        if self.settings.folder is not None:
            blackbox.write(self.settings.folder, iteration, self.settings.ppo, said, derived)
        row = figures(said, derived)
        if not old:
            del row["logprob_gap"]  # nothing to compare with
        return experience_of(said, derived), row | {"samples": _samples(said, samples)}

    @step
    def keep(self, path: Path, *rollouts: Rollouts) -> tuple[None, Figures]:
        """Write the rollouts of an iteration that has not begun."""
        write_rollouts(path, merge(rollouts))
        return None, {}

    @step
    def recall(self, path: Path) -> tuple[Rollouts, Figures]:
        """What `keep` wrote."""
        rolled = read_rollouts(path)
        return rolled, {"version": rolled.version}


def _samples(said: Said, count: int) -> list[Figures]:
    """Sequences to show, as token ids."""
    rolled, kl = said.rolled, sequence_kl(said)
    return [
        {
            "id": rolled.prompts[i].id,
            "domain": rolled.prompts[i].domain,
            "prompt": rolled.prompts[i].ids,
            "response": rolled.responses[i],
            "reward": said.scores[i],
            "kl": kl[i],
        }
        for i in one_a_domain_first(rolled, count)
    ]
