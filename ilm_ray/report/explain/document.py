"""What became of one document: each step's verdict, every value against its bounds, its duplicates, a diff to the copy
that was kept."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.dedup.components import Drops
from ilm_ray.data.dedup.drops import load_drops
from ilm_ray.data.documents.paths import STEPS, drops_path
from ilm_ray.report.explain.text_run import NEAR, Asked, Row, TextRun, find_row, read, source_of

if TYPE_CHECKING:
    from ilm_ray.data.dedup.components import Drops

MEMBERS = 20  # of a cluster that are named
_PIECES = 2000  # of each text that the diff looks at: its time grows with their product
_SUGGESTED_FROM = 5000  # URLs of the same host that a suggestion is chosen from
_SENTENCE_END = re.compile(r"(?<=[.!?]) +|(?<=[。！？])")


@dataclass(frozen=True)
class Check:
    """One rule asked of the document. outcome: passed, failed, not asked (it had fallen before), or no value kept."""

    rule: str
    value: Any
    bounds: str
    outcome: str


@dataclass(frozen=True)
class Verdict:
    """What a step said. `fell`: the rule that removed the document there, with its value and threshold."""

    step: str
    checks: list[Check]
    fell: str | None = None
    value: Any = None
    threshold: Any = None


@dataclass(frozen=True)
class Cluster:
    """Documents found to be copies of each other. `size` counts all; `members` names some, the kept one first."""

    keeper: int
    size: int
    members: list[Row]
    diff: list[str]  # unified, from the kept copy to the document; empty for the kept copy itself


@dataclass(frozen=True)
class Story:
    """`row`: the document as Format left it. `verdicts`: of the steps that it reached, in order."""

    row: Row
    path: str  # of its input file
    verdicts: list[Verdict]
    cluster: Cluster | None

    @property
    def fate(self) -> str:
        last = self.verdicts[-1]
        return f"removed in {last.step} by {last.fell}" if last.fell else f"kept up to {last.step}"


def stories(run: TextRun, wanted: str) -> list[Story]:
    """Every document of this id or URL. Raises UserError where there is none."""
    found = _by_id(run, int(wanted)) if wanted.isdecimal() else _by_url(run, wanted)
    return [_story(run, row) for row in found]


def drop_lists(run: TextRun) -> "Iterator[Drops]":
    """The documents that Dedup removed, one input file at a time."""
    for source in run.sources.values():
        path = drops_path(run.folder, source.index)
        if path.is_file():
            yield load_drops(path)


def summary(story: Story) -> dict[str, Any]:
    """The story as JSON."""
    cluster = story.cluster
    return {
        **{name: story.row.get(name) for name in ("id", "url", "dump", "source", "date", "language")},
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
        "cluster": cluster and {"keeper": cluster.keeper, "size": cluster.size, "members": cluster.members},
        "diff": cluster.diff if cluster else [],
    }


def lines(story: Story) -> list[str]:
    """The story for people."""
    row = story.row
    about = [row.get("dump"), row.get("source") or "web", row.get("language"), row.get("date"), story.path]
    out = [f"document {row['id']}  {row.get('url')}", f"  {'  '.join(str(a) for a in about)}", f"  {story.fate}"]
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


def _by_id(run: TextRun, document: int) -> list[Row]:
    source, row = source_of(run, document), find_row(run, "format", document)
    if row is None:
        where = f"{source.path} holds no such document" if source else "no input file has such ids"
        raise UserError(f"document {document} is not in this run: {where}; give an id or URL from its rows")
    return [row]


def _by_url(run: TextRun, url: str) -> list[Row]:
    """All captures of the URL, newest dump first. Reads every row of Format."""
    found: list[Row] = []
    host, near = url.split("://")[-1].split("/")[0], set[str]()
    for outcome in ("kept", "removed"):
        for path in run.files("format", outcome):
            for row in read(path):
                if row.get("url") == url:
                    found.append(row)
                elif host and host in str(row.get("url")) and len(near) < _SUGGESTED_FROM:
                    near.add(str(row["url"]))
    if not found:
        hint = "; nearest: ".join(["", *difflib.get_close_matches(url, sorted(near), n=1, cutoff=0.4)])
        raise UserError(f"no document of URL {url} is in this run{hint or '; give a URL or id from its rows'}")
    return sorted(found, key=lambda row: int(row["id"]))


def _story(run: TextRun, row: Row) -> Story:
    verdicts: list[Verdict] = []
    for step in STEPS:
        here = row if step == "format" else find_row(run, step, row["id"])
        if here is None:
            break  # the run has not come this far
        verdicts.append(_verdict(run, step, here))
        if verdicts[-1].fell:
            break
    reached_dedup = any(v.step == "dedup" for v in verdicts)
    source = source_of(run, row["id"])
    return Story(row, source.path if source else "", verdicts, _cluster(run, row["id"]) if reached_dedup else None)


def _verdict(run: TextRun, step: str, row: Row) -> Verdict:
    fell = row.get("drop_rule")
    rules = run.asked(step, row)
    # A rule that is not among those with settings, such as one of the pre-pass, is asked before them.
    fallen = fell is not None and fell not in (asked.rule.name for asked in rules)
    checks = [Check(str(fell), row.get("drop_value"), "", "failed")] if fallen else []
    for asked in rules:
        name = asked.rule.name
        if name == fell:
            outcome, fallen = "failed", True
        elif fallen:
            outcome = "not asked"
        else:
            outcome = "passed"
        value = row.get(asked.rule.column) if asked.rule.column else None
        if name == fell and value is None:
            value = row.get("drop_value")
        decided_by_bands = name == NEAR and not run.settings.get("verify")
        checks.append(Check(name, value, "no shared band" if decided_by_bands else _range(asked), outcome))
    return Verdict(step, checks, fell, row.get("drop_value"), row.get("threshold"))


def _cluster(run: TextRun, document: int) -> Cluster | None:
    keeper = document
    for drops in drop_lists(run):
        keeper = next(iter(drops.duplicate_of[drops.ids == np.uint64(document)].tolist()), keeper)
    others = sorted(
        member for drops in drop_lists(run) for member in drops.ids[drops.duplicate_of == np.uint64(keeper)].tolist()
    )
    if not others:
        return None
    if document != keeper:  # among the named ones, however many there are
        others = [document, *(other for other in others if other != document)]
    rows = {member: find_row(run, "dedup", member) for member in (keeper, *others[: MEMBERS - 1])}
    kept, own = rows[keeper], rows.get(document)
    diff = []
    if kept and own and document != keeper:
        diff = unified_diff(kept["text"], own["text"], f"kept {keeper}", f"this {document}")
        diff = diff or ["the two texts are the same"]
    return Cluster(keeper, len(others) + 1, [_member(member, row, keeper) for member, row in rows.items()], diff)


def _member(member: int, row: Row | None, keeper: int) -> Row:
    row = row or {}  # of an earlier run, whose rows lie elsewhere
    role = "kept" if member == keeper else str(row.get("drop_rule", "removed"))
    return {
        "id": member,
        "role": role,
        "similarity": row.get("similarity") if member != keeper else None,
        "dump": row.get("dump", "an earlier run"),
        "url": row.get("url", ""),
    }


def _sentences(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield from (piece for piece in _SENTENCE_END.split(line) if piece)


def _range(asked: Asked) -> str:
    if asked.rule.name == "language":
        return "every language" if asked.languages is None else f"one of {', '.join(asked.languages)}"
    if asked.low is None and asked.high is None:
        return "no bound" if asked.rule.column else ""
    if asked.high is None:
        return f">= {asked.low:,}"
    if asked.low is None:
        return f"{'<' if asked.rule.name == NEAR else '<='} {asked.high:,}"
    return f"{asked.low:,} to {asked.high:,}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
