"""A bounded look at the documents of a text stage: scores, samples at and around each threshold, cleaned texts, copies.

However large the run is, at most `FILES` files of each pass and outcome are opened, spread evenly over all, and at most
`FILE_BYTES` of text read from each, of which `ROWS` documents of a fate count. Which are shown follows from a hash of
their ids alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.paths import STEPS
from ilm_ray.data.documents.smallest import Smallest
from ilm_ray.report.explain.text_run import NEAR, BoundedRule, TextRun, fell_in, find_document, read, steps_reached
from ilm_ray.report.html import diff

FILES, ROWS, FILE_BYTES = 12, 1000, 32 << 20
REMOVED, BORDERLINE, CLEANED, PAIRS = 20, 20, 8, 10
SAMPLE_CHARS = 300
ShownDocument = dict[str, Any]  # of a document what is shown
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


@dataclass
class RuleView:
    """Observations of one rule. Scores are those of all documents of the step, kept and removed."""

    step: str
    name: str
    thresholds: set[float] = field(default_factory=set)
    removed_scores: list[float] = field(default_factory=list)  # of those that this rule removed
    other_scores: list[float] = field(default_factory=list)
    removed: Smallest[ShownDocument] = field(default_factory=lambda: Smallest(REMOVED))
    fallen_at_line: Smallest[ShownDocument] = field(default_factory=lambda: Smallest(BORDERLINE // 2))
    passed_at_line: Smallest[ShownDocument] = field(default_factory=lambda: Smallest(BORDERLINE // 2))

    def borderline(self) -> list[ShownDocument]:
        """Nearest the threshold on either side, by value."""
        samples = [*self.fallen_at_line.items(), *self.passed_at_line.items()]
        return sorted(samples, key=lambda row: (row["value"], row["id"]))


@dataclass
class Look:
    """`rows` were read of `files` files; `all_files` is how many there are."""

    rules: list[RuleView]
    cleaned: list[ShownDocument]
    pairs: list[tuple[ShownDocument, ShownDocument]]  # (kept copy, near-duplicate)
    similarities: list[float]
    rows: int
    files: int
    all_files: int


def look(run: TextRun) -> Look:
    """Read a bounded part of the run's documents. Raises UserError where a file is damaged."""
    rules: dict[tuple[str, str], RuleView] = {}
    cleaned, doubles = Smallest[ShownDocument](CLEANED), Smallest[ShownDocument](4 * PAIRS)
    seen = Look([], [], [], [], 0, 0, 0)
    for paths in run.files().values():
        chosen = spread(paths, FILES)
        seen.files, seen.all_files = seen.files + len(chosen), seen.all_files + len(paths)
        for path in chosen:
            for document in _some(path):
                seen.rows += 1
                for step in steps_reached(document, path):
                    _see(run, step, document, rules)
                if "raw_text" in document.columns:
                    cleaned.offer(order(document.id), document.id, partial(_texts, document))
                if document.drop_rule == NEAR:
                    doubles.offer(order(document.id), document.id, partial(_texts, document))
                    if document.similarity is not None:
                        seen.similarities.append(document.similarity)
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


def _some(path: Path) -> Iterator[Document]:
    size, fates = 0, Counter[str | None]()
    for document in read(path):
        size += document.bytes
        fates[document.drop_step] += 1
        if fates[document.drop_step] <= ROWS:
            yield document
        if size > FILE_BYTES:
            return


def _see(run: TextRun, step: str, document: Document, views: dict[tuple[str, str], RuleView]) -> None:
    fell = fell_in(document, step)
    if fell is not None:
        view = views.setdefault((step, fell), RuleView(step, fell))
        why = document.drop_value, document.threshold
        view.removed.offer(order(document.id), document.id, partial(_sample, document, fell, *why))
    rules = run.rules(step, document)
    reached = next((i + 1 for i, each in enumerate(rules) if each.rule.name == fell), 0 if fell else len(rules))
    for place, bounded in enumerate(rules):
        value = document.column(bounded.rule.column) if bounded.rule.column else None
        no_bound = bounded.low is None and bounded.high is None
        if no_bound or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        view = views.setdefault((step, bounded.rule.name), RuleView(step, bounded.rule.name))
        view.thresholds.update(bound for bound in (bounded.low, bounded.high) if bound is not None)
        mine = fell == bounded.rule.name
        (view.removed_scores if mine else view.other_scores).append(value)
        if place < reached:  # of a document that an earlier rule removed, this one was not asked
            bound, distance = _nearest(bounded, value)
            at_line = view.fallen_at_line if mine else view.passed_at_line
            at_line.offer(distance, order(document.id), partial(_sample, document, fell, value, bound))


def _nearest(bounded: BoundedRule, value: float) -> tuple[float, float]:
    distances = [(abs(value - bound), bound) for bound in (bounded.low, bounded.high) if bound is not None]
    distance, bound = min(distances)
    return bound, distance


def _sample(document: Document, fell: str | None, value: Any, threshold: Any) -> ShownDocument:
    text = document.text[: SAMPLE_CHARS + 1]
    return _about(document) | {"fell": fell, "value": value, "threshold": threshold, "text": text}


def _texts(document: Document) -> ShownDocument:
    texts = {"text": document.text, "raw_text": document.column("raw_text")}
    cut = {name: text[: diff.CHARS + 1] for name, text in texts.items() if text is not None}
    return _about(document) | {"duplicate_of": document.duplicate_of, "similarity": document.similarity} | cut


def _about(document: Document) -> ShownDocument:
    return {name: document.column(name) for name in ("id", "url", "language", "dump")}


def _with_keeper(run: TextRun, doubles: list[ShownDocument]) -> list[tuple[ShownDocument, ShownDocument]]:
    """The first few, each behind the copy that stays; that of an earlier run is not at hand."""
    pairs: list[tuple[ShownDocument, ShownDocument]] = []
    for double in doubles:
        kept = find_document(run, double["duplicate_of"])
        if kept is not None:
            pairs.append((_texts(kept[0]), double))
        if len(pairs) == PAIRS:
            break
    return pairs
