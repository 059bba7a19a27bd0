"""The experience actor: makes the learners' batch from rollouts, log-probabilities, values and scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.group import Figures, timed
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.assemble import GroupOutputs, derive, experience_of, figures, one_a_domain_first, sequence_kl
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, gather_numbered, merge
from ilm_ray.alignment.ppo.rollout_file import read_rollouts, write_rollouts
from ilm_ray.config.alignment import PPOConfig


@dataclass(frozen=True)
class ExperienceSettings:
    """Settings of the experience actor."""

    ppo: PPOConfig
    folder: Path | None  # of the run's PPO stage: gets each iteration's experience as a file; None: no files


class ExperienceMaker:
    """A single rank, for its work is small beside a forward; not the driver, which may hold no tensor."""

    def __init__(self, rank: int, world: int, settings: ExperienceSettings) -> None:
        self.settings = settings

    @timed
    def build(self) -> tuple[None, Figures]:
        return None, {}

    @timed
    def assemble(
        self, counts: dict[str, int], iteration: int, samples: int, *payloads: Any
    ) -> tuple[Experience, Figures]:
        """payloads: of the ranks of rollout, policy, reference, critic and reward; counts: ranks of each, in order.

        Without the policy, as with rollouts of older weights, the sampler's log-probabilities take the place of the
        policy's, so that the PPO ratio is to the distribution that was sampled from. The figures carry `samples`
        sequences, as token ids.
        """
        queue = iter(payloads)
        parts = {group: [next(queue) for _ in range(count)] for group, count in counts.items()}
        rolled = merge(parts["rollout"])
        by_number = {number: score for part in parts["reward"] for number, score in part.items()}
        outputs = GroupOutputs(
            rolled,
            # The policy chose all response tokens; tool output would be False here.
            [torch.ones(len(r), dtype=torch.bool) for r in rolled.responses],
            gather_numbered(parts["policy"]) if "policy" in parts else rolled.behaviour,
            gather_numbered(parts["reference"]),
            gather_numbered(parts["critic"]) if "critic" in parts else [torch.zeros_like(b) for b in rolled.behaviour],
            [by_number[i] for i in range(len(by_number))],
        )
        derived = derive(self.settings.ppo, outputs)
        if self.settings.folder is not None:
            blackbox.write(self.settings.folder, iteration, self.settings.ppo, outputs, derived)
        row = figures(self.settings.ppo, outputs, derived)
        if "policy" not in parts:
            del row["logprob_gap"]  # nothing to compare with
        return experience_of(outputs, derived), row | {"samples": _samples(outputs, samples)}

    @timed
    def keep(self, path: Path, *rollouts: Rollouts) -> tuple[None, Figures]:
        """Write the rollouts of an iteration that has not begun."""
        write_rollouts(path, merge(rollouts))
        return None, {}

    @timed
    def recall(self, path: Path) -> tuple[Rollouts, Figures]:
        """The rollouts that `keep` wrote."""
        rolled = read_rollouts(path)
        return rolled, {"version": rolled.version}


def _samples(outputs: GroupOutputs, count: int) -> list[Figures]:
    """Sequences to show, as token ids."""
    rolled, kl = outputs.rolled, sequence_kl(outputs)
    return [
        {
            "id": rolled.prompts[i].id,
            "domain": rolled.prompts[i].domain,
            "prompt": rolled.prompts[i].ids,
            "response": rolled.responses[i],
            "reward": outputs.scores[i],
            "kl": kl[i],
        }
        for i in one_a_domain_first(rolled, count)
    ]
