"""Actors that score parts of long documents with a language model. Ray restarts a dead actor and its part."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from actors.ppo.roles import gpu_share
from ilm_ray.base.jsonl import JsonObject, read_jsonl, write_jsonl
from ilm_ray.data.longtext.models import ScoringModel, load_scorer
from ilm_ray.data.longtext.perplexity import Cut, score_documents
from ilm_ray.run.progress import Progress

BATCH_TOKENS = 8192  # of one forward
GROUP = 16  # documents whose segments are sorted by length together
RESTARTS = 3  # of an actor; a part that always kills its actor would be tried for ever
DEADLINE_S = 3600.0  # until another part is done


@dataclass(frozen=True)
class ScorerSettings:
    """Settings of a scorer of long documents."""

    model: str  # folder or hub id, as `load_scorer` takes it
    tokenizer: str | None  # of a model of ours; None: `load_scorer` finds it
    cut: Cut
    batch_tokens: int = BATCH_TOKENS


class PerplexityScorer:
    """One copy of the model. Its only effect is the file of a part, so it may score a part twice."""

    def __init__(self, settings: ScorerSettings) -> None:
        self.settings = settings

    @functools.cached_property
    def model(self) -> ScoringModel:
        tokenizer = self.settings.tokenizer
        return load_scorer(self.settings.model, Path(tokenizer) if tokenizer else None, 2 * self.settings.cut.segment)

    def score(self, part: Path, out: Path) -> int:
        """Write the differences of the documents of `part` ({id, text} rows) to `out`; returns their number."""
        return write_jsonl(out, self._rows(part))

    def _rows(self, part: Path) -> Iterator[JsonObject]:
        rows = read_jsonl(part)
        while group := list(itertools.islice(rows, GROUP)):
            yield from score_documents(group, self.model, self.settings.cut, self.settings.batch_tokens)


def score_parts(parts: Sequence[tuple[Path, Path]], settings: ScorerSettings, workers: int) -> None:
    """Score every (part, out) whose `out` is not there yet on `workers` actors.

    Raises UserError where the model cannot be loaded, TimeoutError where no part is done within DEADLINE_S.
    """
    left = [(part, out) for part, out in parts if not out.exists()]
    if not left:
        return
    progress = Progress("long_text: perplexity", len(parts), done=len(parts) - len(left))
    workers = min(workers, len(left))
    actor = ray.remote(PerplexityScorer).options(
        num_cpus=1, num_gpus=gpu_share(workers), max_restarts=RESTARTS, max_task_retries=RESTARTS
    )
    free = [actor.remote(settings) for _ in range(workers)]
    running = {}
    try:
        for done in range(len(parts) - len(left), len(parts)):
            while free and left:
                scorer = free.pop()
                running[scorer.score.remote(*left.pop(0))] = scorer
            ready, _ = ray.wait(list(running), num_returns=1, timeout=DEADLINE_S)
            if not ready:
                raise TimeoutError(f"no part of the long documents was scored within {DEADLINE_S:g} s")
            ray.get(ready[0])
            free.append(running.pop(ready[0]))
            progress.update(done + 1)
    finally:
        for scorer in [*free, *running.values()]:
            ray.kill(scorer)
