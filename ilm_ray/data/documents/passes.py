"""One pass over one input file: a chain of steps in memory, one write of kept and of removed documents.

A step takes documents in batches and gives them back, with a verdict on those that fall; the first step of a chain
makes them. Bytes depend on the input and the settings alone; files appear by renaming, the statistics last. So a pass
may be killed, or run twice, at any moment.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonlWriter, batches
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.cost import WRITE, Costs
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.paths import STEPS, cost_path, outputs
from ilm_ray.data.documents.sources import Source

BATCH = 128  # documents that a step is given at once

Batches = Iterator[list[Document]]


@dataclass(frozen=True)
class FileTask:
    """One input file, the stage's folder, the settings of the file's source. `records` counts the input."""

    source: Source
    folder: Path
    config: TextConfig
    records: Counter[str] = field(default_factory=Counter)


class Step(Protocol):
    """A step of a pass, e.g. a generator function."""

    def __call__(self, documents: Batches, task: FileTask, /) -> Batches:
        """The documents in their order, judged. The first step of a pass is given none and makes them."""


def run_pass(name: str, steps: Mapping[str, Step], task: FileTask) -> None:
    """Send a file through `steps`; write `<name>/{kept,removed,stats}-NNNNN.*` and the cost of each step."""
    kept_path, removed_path, stats_path = outputs(task.folder, name, task.source.index)
    funnel, costs = Funnel(), Costs()

    def survivors(step: str, judged: Batches) -> Iterator[Document]:
        for batch in costs.of(step, judged):
            if step in STEPS:
                for document in batch:
                    funnel.add(step, document.drop_rule, document.language, document.dump, document.bytes)
            fallen = [document for document in batch if document.drop_rule is not None]
            with costs.charged(WRITE, fallen):
                for document in fallen:
                    document.drop_step = step
                    removed.write(document.row())
            yield from (document for document in batch if document.drop_rule is None)

    with JsonlWriter(kept_path) as kept, JsonlWriter(removed_path) as removed:
        documents: Batches = iter(())
        for step, judge in steps.items():
            documents = batches(survivors(step, judge(documents, task)), BATCH)
        for batch in documents:
            with costs.charged(WRITE, batch):
                for document in batch:
                    kept.write(document.row())
    costs.write(cost_path(task.folder, name, task.source.index))
    stats = {"funnel": funnel.rows(), "records": dict(sorted(task.records.items()))}
    write_text_atomic(stats_path, json.dumps(stats, sort_keys=True))
