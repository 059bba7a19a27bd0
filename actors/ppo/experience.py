"""The experience actor: makes the learners' batch from rollouts, log-probabilities, values and scores."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.group import Figures, timed
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.assemble import (
    GroupOutputs,
    derive,
    experience_of,
    figures,
    one_a_domain_first,
    sequence_kl,
    trained_scores,
)
from ilm_ray.alignment.ppo.estimators import in_equal_groups
from ilm_ray.alignment.ppo.experience import Experience, Rollouts, gather_numbered, merge
from ilm_ray.alignment.ppo.rewards import Weighed, failures_of, weigh
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
        """payloads: of the ranks of rollout, policy, reference, critic, reward and function, those that there are;
        counts: ranks of each, in order.

        Without the policy, as with rollouts of older weights, the sampler's log-probabilities take the place of the
        policy's, so that the PPO ratio is to the distribution that was sampled from. The figures carry `samples`
        sequences, as token ids.
        """
        queue = iter(payloads)
        parts = {group: [next(queue) for _ in range(count)] for group, count in counts.items()}
        rolled = merge(parts["rollout"])
        weighed = self._weighed(rolled, parts)
        outputs = GroupOutputs(
            rolled,
            # The policy chose all response tokens; tool output would be False here.
            [torch.ones(len(r), dtype=torch.bool) for r in rolled.responses],
            gather_numbered(parts["policy"]) if "policy" in parts else rolled.behaviour,
            gather_numbered(parts["reference"]),
            gather_numbered(parts["critic"]) if "critic" in parts else [torch.zeros_like(b) for b in rolled.behaviour],
            weighed.scores,
            weighed.parts,
        )
        derived = derive(self.settings.ppo, outputs)
        if self.settings.folder is not None:
            blackbox.write(self.settings.folder, iteration, self.settings.ppo, outputs, derived)
        row = figures(self.settings.ppo, outputs, derived)
        if "policy" not in parts:
            del row["logprob_gap"]  # nothing to compare with
        row |= {"failures": failures_of(weighed), "samples": _samples(outputs, samples)}
        return experience_of(outputs, derived), row

    @timed
    def choose(self, group: str, rounds: list[dict[str, int]], *payloads: Any) -> tuple[Any, Figures]:
        """The output of `group` (rollout, reward or function) for the first `prompts_per_iteration` groups of answers
        whose scores differ; for the very first group where none do.

        payloads: of rollout and scorers, one round of prompts after the other; rounds: ranks of each, in order. No
        prompt is in two rounds. The figures count the groups that were asked for and those whose scores differ.
        """
        ppo, queue = self.settings.ppo, iter(payloads)
        played = [{name: [next(queue) for _ in range(count)] for name, count in counts.items()} for counts in rounds]
        chosen, asked, kept = list[tuple[Rollouts, dict[int, Any], list[int]]](), 0, 0
        for parts in played:
            rolled = merge(parts["rollout"])
            scores, groups = trained_scores(ppo, rolled, self._weighed(rolled, parts).scores), rolled.groups
            equal = in_equal_groups(scores, groups)
            differ = list(dict.fromkeys(name for name, same in zip(groups, equal, strict=True) if not same))
            taken = set(differ[: ppo.prompts_per_iteration - kept])
            asked, kept = asked + len(set(groups)), kept + len(taken)
            numbered = {n: value for part in parts[group] for n, value in part.items()} if group != "rollout" else {}
            chosen.append((rolled, numbered, [n for n, name in enumerate(groups) if name in taken]))
        if not kept:
            rolled, numbered, _ = chosen[0]
            chosen = [(rolled, numbered, [n for n, name in enumerate(rolled.groups) if name == rolled.groups[0]])]
        figures = {"asked": asked, "kept": kept}
        if group == "rollout":
            return merge([rolled.only(numbers) for rolled, _, numbers in chosen]), figures
        values = [numbered[n] for _, numbered, numbers in chosen for n in numbers]
        return dict(enumerate(values)), figures

    @timed
    def mean_score(self, counts: dict[str, int], *payloads: Any) -> tuple[None, Figures]:
        """The mean score of answers that nothing is trained on. payloads: of rollout and scorers, as in `assemble`."""
        queue = iter(payloads)
        parts = {group: [next(queue) for _ in range(count)] for group, count in counts.items()}
        scores = [s for s in self._weighed(merge(parts["rollout"]), parts).scores if not math.isnan(s)]
        return None, {"reward": sum(scores) / max(len(scores), 1), "scored": len(scores)}

    def _weighed(self, rolled: Rollouts, parts: dict[str, list[Any]]) -> Weighed:
        model, verdicts = (
            {number: value for part in parts.get(group, []) for number, value in part.items()}
            for group in ("reward", "function")
        )
        return weigh(self.settings.ppo.rewards, [prompt.domain for prompt in rolled.prompts], model, verdicts)

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
            "reward": None if math.isnan(outputs.scores[i]) else outputs.scores[i],
            "parts": outputs.parts[i],
            "kl": kl[i],
        }
        for i in one_a_domain_first(rolled, count)
    ]
