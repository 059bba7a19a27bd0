"""A bounded look at the documents of a text stage: scores, samples at and around each threshold, cleaned texts, copies.

However large the run is, at most `FILES` files of each step and outcome are opened, spread evenly over all, and at most
`ROWS` rows or `FILE_BYTES` of text read from each. Which rows are shown follows from a hash of their ids alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.data.documents.paths import STEPS
from ilm_ray.data.documents.smallest import Smallest
from ilm_ray.report.explain.text_run import NEAR, Asked, Row, TextRun, find_row, read
from ilm_ray.report.html import diff

FILES, ROWS, FILE_BYTES = 12, 1000, 32 << 20
REMOVED, BORDERLINE, CLEANED, PAIRS = 20, 20, 8, 10
SAMPLE_CHARS = 300
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


@dataclass
class RuleView:
    """What was seen of one rule. Scores are those of all documents of the step, whatever removed them."""

    step: str
    name: str
    thresholds: set[float] = field(default_factory=set)
    removed_scores: list[float] = field(default_factory=list)  # of those that this rule removed
    other_scores: list[float] = field(default_factory=list)
    removed: Smallest[Row] = field(default_factory=lambda: Smallest(REMOVED))
    fallen_at_line: Smallest[Row] = field(default_factory=lambda: Smallest(BORDERLINE // 2))
    passed_at_line: Smallest[Row] = field(default_factory=lambda: Smallest(BORDERLINE // 2))

    def borderline(self) -> list[Row]:
        """Nearest the threshold on either side, by value."""
        found = [*self.fallen_at_line.items(), *self.passed_at_line.items()]
        return sorted(found, key=lambda row: (row["value"], row["id"]))


@dataclass
class Look:
    """`rows` were read of `files` files; `all_files` is how many there are."""

    rules: list[RuleView]
    cleaned: list[Row]
    pairs: list[tuple[Row, Row]]  # (kept copy, near-duplicate)
    similarities: list[float]
    rows: int
    files: int
    all_files: int


def look(run: TextRun) -> Look:
    """Read a bounded part of the run's documents. Raises UserError where a file is damaged."""
    rules: dict[tuple[str, str], RuleView] = {}
    cleaned, doubles = Smallest[Row](CLEANED), Smallest[Row](4 * PAIRS)
    seen = Look([], [], [], [], 0, 0, 0)
    for step in STEPS:
        for outcome in ("kept", "removed"):
            paths = run.files(step, outcome)
            chosen = spread(paths, FILES)
            seen.files, seen.all_files = seen.files + len(chosen), seen.all_files + len(paths)
            for path in chosen:
                for row in _some(path):
                    seen.rows += 1
                    _see(run, step, row, rules)
                    if step == "clean" and "raw_text" in row:
                        cleaned.offer(order(row["id"]), row["id"], partial(_texts, row))
                    if row.get("drop_rule") == NEAR:
                        doubles.offer(order(row["id"]), row["id"], partial(_texts, row))
                        if isinstance(row.get("similarity"), (int, float)):
                            seen.similarities.append(float(row["similarity"]))
    seen.rules = sorted(rules.values(), key=lambda view: STEPS.index(view.step))
    seen.cleaned, seen.pairs = cleaned.items(), _with_keeper(run, doubles.items())
    return seen


def order(document: int) -> int:
    """A hash of an id, below 2^53: documents in this order come from all files alike."""
    return (document * _MULTIPLIER & (1 << 64) - 1) >> 11


def orders(documents: np.ndarray) -> np.ndarray:
    """`order` of uint64 ids."""
    return np.asarray((documents * np.uint64(_MULTIPLIER)) >> np.uint64(11))


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly spaced."""
    if len(paths) <= count:
        return list(paths)
    return [paths[i * len(paths) // count] for i in range(count)]


def _some(path: Path) -> Iterator[Row]:
    size = 0
    for position, row in enumerate(read(path)):
        if position == ROWS or size > FILE_BYTES:
            return
        size += int(row.get("bytes", 0))
        yield row


def _see(run: TextRun, step: str, row: Row, rules: dict[tuple[str, str], RuleView]) -> None:
    fell = row.get("drop_rule")
    if fell is not None:
        view = rules.setdefault((step, str(fell)), RuleView(step, str(fell)))
        why = row.get("drop_value"), row.get("threshold")
        view.removed.offer(order(row["id"]), row["id"], partial(_sample, row, *why))
    asked = run.asked(step, row)
    reached = next((i + 1 for i, one in enumerate(asked) if one.rule.name == fell), 0 if fell else len(asked))
    for place, one in enumerate(asked):
        value = row.get(one.rule.column) if one.rule.column else None
        if (one.low is None and one.high is None) or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        view = rules.setdefault((step, one.rule.name), RuleView(step, one.rule.name))
        view.thresholds.update(bound for bound in (one.low, one.high) if bound is not None)
        mine = fell == one.rule.name
        (view.removed_scores if mine else view.other_scores).append(value)
        if place < reached:  # of a document that an earlier rule removed, this one was not asked
            bound, distance = _nearest(one, value)
            at_line = view.fallen_at_line if mine else view.passed_at_line
            at_line.offer(distance, order(row["id"]), partial(_sample, row, value, bound))


def _nearest(one: Asked, value: float) -> tuple[float, float]:
    distances = [(abs(value - bound), bound) for bound in (one.low, one.high) if bound is not None]
    distance, bound = min(distances)
    return bound, distance


def _sample(row: Row, value: Any, threshold: Any) -> Row:
    return {
        **{name: row.get(name) for name in ("id", "url", "language", "dump")},
        "fell": row.get("drop_rule"),
        "value": value,
        "threshold": threshold,
        "text": str(row.get("text", ""))[: SAMPLE_CHARS + 1],
    }


def _texts(row: Row) -> Row:
    kept = ("id", "url", "language", "dump", "duplicate_of", "similarity")
    cut = {name: str(row[name])[: diff.CHARS + 1] for name in ("text", "raw_text") if name in row}
    return {name: row.get(name) for name in kept} | cut


def _with_keeper(run: TextRun, doubles: list[Row]) -> list[tuple[Row, Row]]:
    """The first few, each behind the copy that stays; that of an earlier run is not at hand."""
    pairs: list[tuple[Row, Row]] = []
    for double in doubles:
        kept = find_row(run, "dedup", double["duplicate_of"])
        if kept is not None:
            pairs.append((_texts(kept), double))
        if len(pairs) == PAIRS:
            break
    return pairs
