"""Costs of the steps of a pass: CPU seconds of the process and its children, peak memory, documents and bytes."""

import json
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ilm_ray.base.files import write_text_atomic
from ilm_ray.data.documents.document import Document

if TYPE_CHECKING:
    import pandas as pd

WRITE = "write"
ORDER = ("format", "clean", "sign", "dedup", "safe", "quality", WRITE)
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Costs:
    """A stopwatch that stands at one step at a time: the steps of a pass call each other in turn.

    Children count once they have been waited for. The peak is the process's highest so far, its own and its largest
    child's: a worker that did something bigger before shows that.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._step, self._since = WRITE, _cpu_seconds()

    def of(self, step: str, batches: Iterator[list[Document]]) -> Iterator[list[Document]]:
        """`batches` as they are; the time that making them takes is the step's."""
        while True:
            with self._at(step):
                batch = next(batches, None)
            if batch is None:
                return
            self._count(step, batch)
            yield batch

    @contextmanager
    def charged(self, step: str, batch: list[Document]) -> Iterator[None]:
        """The time that the block takes is the step's, and the batch went through it."""
        self._count(step, batch)
        with self._at(step):
            yield

    def write(self, path: Path) -> None:
        """Write step -> {"documents", "bytes", "seconds", "peak_mb"}."""
        self._turn_to(WRITE)
        path.parent.mkdir(parents=True, exist_ok=True)
        peak = round(sum(usage.ru_maxrss for usage in _usages()) * _MAXRSS_UNIT / 2**20, 1)
        costs = {
            step: {
                **{unit: self._counts[step][unit] for unit in ("documents", "bytes")},
                "seconds": round(seconds, 3),
                "peak_mb": peak,
            }
            for step, seconds in self._seconds.items()
        }
        write_text_atomic(path, json.dumps(costs, sort_keys=True))

    def _count(self, step: str, batch: list[Document]) -> None:
        self._counts[step].update(documents=len(batch), bytes=sum(document.bytes for document in batch))

    @contextmanager
    def _at(self, step: str) -> Iterator[None]:
        before = self._turn_to(step)
        try:
            yield
        finally:
            self._turn_to(before)

    def _turn_to(self, step: str) -> str:
        """Charge the time since the last call to the current step; which that was."""
        now, before = _cpu_seconds(), self._step
        self._seconds[before] += now - self._since
        self._step, self._since = step, now
        return before


def by_step(folder: Path) -> "pd.DataFrame":
    """Costs of all files together: documents, bytes, seconds, peak_mb of each step, in the order of the road."""
    import pandas as pd

    rows = [
        {"step": step} | cost
        for path in sorted(folder.glob("*-*.json"))
        for step, cost in json.loads(path.read_text(encoding="utf-8")).items()
    ]
    table = pd.DataFrame(rows, columns=["step", "documents", "bytes", "seconds", "peak_mb"])
    total = table.groupby("step").agg({"documents": "sum", "bytes": "sum", "seconds": "sum", "peak_mb": "max"})
    return total.reindex([step for step in ORDER if step in total.index])


def _usages() -> tuple[resource.struct_rusage, resource.struct_rusage]:
    return resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())
