"""The fate of one document: each step's verdict, every value against its bounds, its duplicates, a diff to the copy
that was kept."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.dedup.drops import load_drops
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.paths import drops_path
from ilm_ray.report.explain.text_run import (
    NEAR,
    BoundedRule,
    TextRun,
    fell_in,
    find_document,
    read,
    source_of,
    steps_reached,
)

if TYPE_CHECKING:
    from ilm_ray.data.dedup.components import Drops

MEMBERS = 20  # of a cluster that are named
_PIECES = 2000  # of each text that the diff looks at: its time grows with their product
_SUGGESTED_FROM = 5000  # URLs of the same host that a suggestion is chosen from
_SENTENCE_END = re.compile(r"(?<=[.!?]) +|(?<=[。！？])")


@dataclass(frozen=True)
class RuleCheck:
    """One rule asked of the document. outcome: passed, failed, not asked (it had fallen before), or no value kept."""

    rule: str
    value: Any
    bounds: str
    outcome: str


@dataclass(frozen=True)
class StepVerdict:
    """The verdict of a step. `fell`: the rule that removed the document there, with its value and threshold."""

    step: str
    checks: list[RuleCheck]
    fell: str | None = None
    value: Any = None
    threshold: Any = None


@dataclass(frozen=True)
class Cluster:
    """Documents found to be copies of each other. `size` counts all; `members` names some, the kept one first."""

    keeper: int
    size: int
    members: list[dict[str, Any]]
    diff: list[str]  # unified, from the kept copy to the document; empty for the kept copy itself


@dataclass(frozen=True)
class Story:
    """`verdicts`: of the steps that the document reached, in order."""

    document: Document
    path: str  # of its input file
    verdicts: list[StepVerdict]
    cluster: Cluster | None

    @property
    def fate(self) -> str:
        last = self.verdicts[-1]
        return f"removed in {last.step} by {last.fell}" if last.fell else f"kept up to {last.step}"


def stories(run: TextRun, wanted: str) -> list[Story]:
    """Every document of this id or URL. Raises UserError where there is none."""
    captures = _by_id(run, int(wanted)) if wanted.isdecimal() else _by_url(run, wanted)
    return [_story(run, document, path) for document, path in captures]


def drop_lists(run: TextRun) -> "Iterator[Drops]":
    """The documents that Dedup removed, one input file at a time."""
    for source in run.sources.values():
        path = drops_path(run.folder, source.index)
        if path.is_file():
            yield load_drops(path)


def summary(story: Story) -> dict[str, Any]:
    """The story as JSON."""
    cluster, row = story.cluster, story.document.row()
    return {
        **{name: row.get(name) for name in ("id", "url", "title", "dump", "source", "date", "language")},
        "file": story.path,
        "fate": story.fate,
        "steps": [
            {
                "step": v.step,
                "verdict": v.fell or "kept",
                **({"value": v.value, "threshold": v.threshold} if v.fell else {}),
                "rules": [vars(check) for check in v.checks],
            }
            for v in story.verdicts
        ],
        "cluster": cluster and {"keeper": str(cluster.keeper), "size": cluster.size, "members": cluster.members},
        "diff": cluster.diff if cluster else [],
    }


def lines(story: Story) -> list[str]:
    """The story for people."""
    document = story.document
    about = [document.dump, document.source or "web", document.language, document.date, story.path]
    out = [f"document {document.id}  {document.url}", f"  {'  '.join(about)}", f"  {story.fate}"]
    for verdict in story.verdicts:
        against = "" if verdict.threshold is None else f" against {_shown(verdict.threshold)}"
        why = f"removed by {verdict.fell}: {_shown(verdict.value)}{against}" if verdict.fell else "kept"
        out.append(f"{verdict.step:<9}{why}")
        out += [f"  {c.rule:<32}{_shown(c.value):>14}  {c.bounds:<24}{c.outcome}" for c in verdict.checks]
    if story.cluster:
        out.append(f"cluster  {story.cluster.size} documents, kept: {story.cluster.keeper}")
        for member in story.cluster.members:
            like = "" if member["similarity"] is None else f"  similarity {member['similarity']:g}"
            out.append(f"  {member['id']}  {member['role']}{like}  {member['dump']}  {member['url']}")
        if story.cluster.size > len(story.cluster.members):
            out.append(f"  ... and {story.cluster.size - len(story.cluster.members)} more")
        out += story.cluster.diff
    return out


def unified_diff(kept: str, other: str, kept_name: str, other_name: str) -> list[str]:
    """Unified diff of two texts by sentences: a web page's line may be a whole article."""
    before, after = (list(_sentences(text))[:_PIECES] for text in (kept, other))
    return list(difflib.unified_diff(before, after, kept_name, other_name, n=1, lineterm=""))


def _by_id(run: TextRun, number: int) -> list[tuple[Document, Path]]:
    source, capture = source_of(run, number), find_document(run, number)
    if capture is None:
        where = f"{source.path} holds no such document" if source else "no input file has such ids"
        raise UserError(f"document {number} is not in this run: {where}; give an id or URL from its rows")
    return [capture]


def _by_url(run: TextRun, url: str) -> list[tuple[Document, Path]]:
    """All captures of the URL, newest dump first. Reads every document."""
    captures: list[tuple[Document, Path]] = []
    host, near = url.split("://")[-1].split("/")[0], set[str]()
    for path in chain.from_iterable(run.files().values()):
        for document in read(path):
            if document.url == url:
                captures.append((document, path))
            elif host and host in document.url and len(near) < _SUGGESTED_FROM:
                near.add(document.url)
    if not captures:
        hint = "; nearest: ".join(["", *difflib.get_close_matches(url, sorted(near), n=1, cutoff=0.4)])
        raise UserError(f"no document of URL {url} is in this run{hint or '; give a URL or id from its rows'}")
    return sorted(captures, key=lambda capture: capture[0].id)


def _story(run: TextRun, document: Document, path: Path) -> Story:
    verdicts = [_verdict(run, step, document) for step in steps_reached(document, path)]
    reached_dedup = any(verdict.step == "dedup" for verdict in verdicts)
    source = source_of(run, document.id)
    file = source.place(document.id)[0] if source else ""
    return Story(document, file, verdicts, _cluster(run, document) if reached_dedup else None)


def _verdict(run: TextRun, step: str, document: Document) -> StepVerdict:
    fell = fell_in(document, step)
    rules = run.rules(step, document)
    # A rule that is not among those with settings, such as one of the pre-pass, is asked before them.
    fallen = fell is not None and fell not in (bounded.rule.name for bounded in rules)
    checks = [RuleCheck(str(fell), document.drop_value, "", "failed")] if fallen else []
    for bounded in rules:
        name = bounded.rule.name
        if name == fell:
            outcome, fallen = "failed", True
        elif fallen:
            outcome = "not asked"
        else:
            outcome = "passed"
        value = document.column(bounded.rule.column) if bounded.rule.column else None
        if name == fell and value is None:
            value = document.drop_value
        decided_by_bands = name == NEAR and not run.settings.get("verify")
        checks.append(RuleCheck(name, value, "no shared band" if decided_by_bands else _range(bounded), outcome))
    if fell is None:
        return StepVerdict(step, checks)
    return StepVerdict(step, checks, fell, document.drop_value, document.threshold)


def _cluster(run: TextRun, document: Document) -> Cluster | None:
    keeper = document.duplicate_of or document.id
    others = sorted(
        member for drops in drop_lists(run) for member in drops.ids[drops.duplicate_of == np.uint64(keeper)].tolist()
    )
    if not others:
        return None
    if document.id != keeper:  # among the named ones, however many there are
        others = [document.id, *(other for other in others if other != document.id)]
    members: dict[int, Document | None] = {}
    for number in (keeper, *others[: MEMBERS - 1]):
        capture = (document, None) if number == document.id else find_document(run, number)
        members[number] = capture[0] if capture else None  # of an earlier run, whose rows lie elsewhere
    kept, diff = members[keeper], list[str]()
    if kept and document.id != keeper:
        diff = unified_diff(kept.text, document.text, f"kept {keeper}", f"this {document.id}")
        diff = diff or ["the two texts are the same"]
    return Cluster(keeper, len(others) + 1, [_member(*member, keeper) for member in members.items()], diff)


def _member(number: int, document: Document | None, keeper: int) -> dict[str, Any]:
    role = "kept" if number == keeper else str((document and document.drop_rule) or "removed")
    return {
        "id": str(number),
        "role": role,
        "similarity": document.similarity if document and number != keeper else None,
        "dump": document.dump if document else "an earlier run",
        "url": document.url if document else "",
    }


def _sentences(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield from (piece for piece in _SENTENCE_END.split(line) if piece)


def _range(bounded: BoundedRule) -> str:
    if bounded.rule.name == "language":
        return "every language" if bounded.languages is None else f"one of {', '.join(bounded.languages)}"
    if bounded.low is None and bounded.high is None:
        return "no bound" if bounded.rule.column else ""
    if bounded.high is None:
        return f">= {bounded.low:,}"
    if bounded.low is None:
        return f"{'<' if bounded.rule.name == NEAR else '<='} {bounded.high:,}"
    return f"{bounded.low:,} to {bounded.high:,}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
