"""Documents that each step kept and removed, by rule, language and dump."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

FunnelRow = dict[str, Any]  # step, rule, language, dump, documents, bytes
KEPT = "kept"
_KEYS = ("step", "rule", "language", "dump")


class Funnel:
    """Counts documents and bytes of text per (step, rule, language, dump); rule "kept" for those that stay."""

    def __init__(self) -> None:
        self._documents: Counter[tuple[str, ...]] = Counter()
        self._bytes: Counter[tuple[str, ...]] = Counter()

    def add(self, step: str, rule: str | None, language: str, dump: str, size: int) -> None:
        """Count a document of `size` bytes that `rule` removed, or that the step kept."""
        key = (step, rule or KEPT, language, dump)
        self._documents[key] += 1
        self._bytes[key] += size

    def merge(self, rows: Iterable[FunnelRow]) -> None:
        """Add the counts in `rows` of another funnel."""
        for row in rows:
            key = tuple(row[name] for name in _KEYS)
            self._documents[key] += row["documents"]
            self._bytes[key] += row["bytes"]

    def rows(self) -> list[FunnelRow]:
        """One row a key, sorted."""
        return [
            dict(zip(_KEYS, key, strict=True)) | {"documents": self._documents[key], "bytes": self._bytes[key]}
            for key in sorted(self._documents)
        ]

    def documents(self, step: str, kept: bool | None = None) -> int:
        """Documents that came into `step`, or those of them that were kept (True) or removed (False)."""
        return sum(
            count
            for (at, rule, *_), count in self._documents.items()
            if at == step and (kept is None or (rule == KEPT) == kept)
        )
