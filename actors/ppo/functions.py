"""The function group: the parts of the reward that no model gives. Each part has a process of its own in each rank."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from actors.group import Figures, timed
from ilm_ray.alignment.ppo.experience import Rollouts, merge
from ilm_ray.config.alignment import RewardPart
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.evaluation.verifiers.worker import FunctionProcess, Verdict


@dataclass(frozen=True)
class FunctionSettings:
    """Settings of a rank. budget_s: for all answers of an iteration; those that are left then have no verdict."""

    parts: list[RewardPart]
    tokenizer: Path  # folder
    stop_ids: list[int]  # which an answer's text does not end with
    folder: Path  # where the job starts: modules of functions may lie there
    budget_s: float


class Functions:
    """One rank: a share of the answers, one after the other."""

    def __init__(self, rank: int, world: int, settings: FunctionSettings) -> None:
        self.rank, self.world, self.settings = rank, world, settings

    @timed
    def build(self) -> tuple[None, Figures]:
        """Open the tokenizer and begin the processes. Raises RuntimeError where a function cannot be imported."""
        s = self.settings
        self.tokenizer = open_tokenizer(s.tokenizer)
        self.workers = {part.called: FunctionProcess(part.by, part.options, part.seconds, s.folder) for part in s.parts}
        for worker in self.workers.values():
            if (why := worker.start()) is not None:
                raise RuntimeError(why)
        return None, {}

    @timed
    def score(self, *rollouts: Rollouts) -> tuple[dict[int, dict[str, Verdict]], Figures]:
        """Verdicts by number of the answer and name of the part, for this rank's share."""
        settings, merged = self.settings, merge(rollouts)
        until = time.monotonic() + settings.budget_s
        verdicts: dict[int, dict[str, Verdict]] = {}
        for number in range(self.rank, len(merged.prompts), self.world):
            prompt, response = merged.prompts[number], merged.responses[number]
            ends = response[-1] in settings.stop_ids
            answer, row = self.tokenizer.decode(response[:-1] if ends else response), json.loads(prompt.row)
            verdicts[number] = {}
            for part in settings.parts:
                if part.judges(prompt.domain):
                    left = until - time.monotonic()
                    asked = (row.get("prompt", []), answer, row.get("metadata", {}))
                    verdict = self.workers[part.called].ask(*asked, left) if left > 0 else "no time was left for it"
                    verdicts[number][part.called] = verdict
        return verdicts, {}
