"""What a step costs: CPU seconds of the process and its children, peak memory, documents and bytes."""

import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import Row

if TYPE_CHECKING:
    import pandas as pd

ORDER = ("format", "clean", "sign", "dedup", "safe", "quality")  # signatures come before duplicates are found
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Cost:
    """`with Cost(path) as cost: cost.add(rows)` writes {"documents", "bytes", "seconds", "peak_mb"} to `path`.

    Children count once they have been waited for. The peak is the process's highest so far, its own and its largest
    child's: a worker that did something bigger before shows that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.documents = self.bytes = 0

    def __enter__(self) -> "Cost":
        self._started = _cpu_seconds()
        return self

    def add(self, rows: Iterable[Row]) -> None:
        """Count documents that went through."""
        for row in rows:
            self.documents += 1
            self.bytes += row["bytes"]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "documents": self.documents,
            "bytes": self.bytes,
            "seconds": round(_cpu_seconds() - self._started, 3),
            "peak_mb": round(sum(u.ru_maxrss for u in _usages()) * _MAXRSS_UNIT / 2**20, 1),
        }
        write_text_atomic(self.path, json.dumps(found))


def by_step(folder: Path) -> "pd.DataFrame":
    """What all files cost together: documents, bytes, seconds, peak_mb of each step, in the order of the road."""
    import pandas as pd

    files = sorted(folder.glob("*-*.json"))
    rows = [{"step": path.name.rpartition("-")[0]} | json.loads(path.read_text(encoding="utf-8")) for path in files]
    table = pd.DataFrame(rows, columns=["step", "documents", "bytes", "seconds", "peak_mb"])
    total = table.groupby("step").agg({"documents": "sum", "bytes": "sum", "seconds": "sum", "peak_mb": "max"})
    return total.reindex([step for step in ORDER if step in total.index])


def _usages() -> tuple[resource.struct_rusage, resource.struct_rusage]:
    return resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())
