"""Documents that would flip if a rule's threshold moved, from the scores in the rows: no model is run again."""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.smallest import Smallest
from ilm_ray.report.explain.text_run import (
    NEAR,
    OTHER_LANGUAGES,
    Rule,
    TextRun,
    bounds,
    fell_in,
    read,
    rule_named,
    steps_reached,
)

SAMPLE_CHARS = 300
LOW, HIGH = "low", "high"
FlipSample = dict[str, Any]  # id, url, language, dump, value, now, then, text
_REMOVED, _KEPT = "newly removed", "newly kept"


@dataclass
class Flips:
    """Documents of the step whose outcome at the rule differs between its bound now and `at`.

    newly_removed: stay now and would fall. newly_kept: fall at this rule now and would pass it; of these `falls_later`
    would fall at a later rule of the same step. relabelled: fall at a later rule now and would fall here instead.
    """

    rule: Rule
    side: str
    at: float
    language: str | None = None  # None: every language that has a bound on this side
    now: dict[str, float | None] = field(default_factory=dict)  # language -> the bound on that side
    documents: int = 0  # that reached the rule
    unscored: int = 0  # of them: have no value to judge by
    newly_removed: int = 0
    newly_kept: int = 0
    relabelled: int = 0
    falls_later: Counter[str] = field(default_factory=Counter)
    by_language: dict[str, Counter[str]] = field(default_factory=dict)
    by_dump: dict[str, Counter[str]] = field(default_factory=dict)
    nearest: list[FlipSample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def move(run: TextRun, name: str, at: float, side: str | None, language: str | None, samples: int) -> Flips:
    """Read all documents that came to the rule's step and count those that flip with its `side` at `at`.

    Memory does not grow with the rows. Raises UserError where the rule does not exist or has no score.
    """
    rule = rule_named(run.settings, name)
    if rule.column is None or rule.name == "language":
        raise UserError(f"rule '{name}' has no score with a threshold: it cannot be moved without a new run")
    flips = Flips(rule, side or nearer_side(run, rule, at, language), at, language, notes=_notes(run, rule))
    nearest = Smallest[FlipSample](samples)
    for path in chain.from_iterable(run.files().values()):
        for document in read(path):
            if language in (None, document.language) and rule.step in steps_reached(document, path):
                _judge(run, flips, document, nearest)
    flips.nearest = nearest.items()
    if not flips.documents:
        what = f"documents of language '{language}'" if language else "documents"
        flips.notes.append(f"no {what} reached this rule")
    return flips


def nearer_side(run: TextRun, rule: Rule, at: float, language: str | None) -> str:
    """The side whose bound is nearer to `at` in any language, or the one that exists."""
    languages = [language] if language else [*run.settings.get("rules", {}), OTHER_LANGUAGES]
    distances = [
        (abs(bound - at), side)
        for code in languages
        for side, bound in zip((LOW, HIGH), bounds(run.settings, rule.name, code), strict=True)
        if bound is not None
    ]
    if not distances:
        raise UserError(f"rule '{rule.name}' has no bound in this run; say which one to set with --side low or high")
    return min(distances)[1]


def summary(flips: Flips) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "rule": flips.rule.name,
        "step": flips.rule.step,
        "side": flips.side,
        "at": flips.at,
        "now": flips.now,
        "documents": flips.documents,
        "unscored": flips.unscored,
        "newly_removed": flips.newly_removed,
        "newly_kept": flips.newly_kept,
        "falls_later": dict(flips.falls_later),
        "kept_after_all": flips.newly_kept - flips.falls_later.total(),
        "relabelled": flips.relabelled,
        "by_language": {name: dict(counts) for name, counts in sorted(flips.by_language.items())},
        "by_dump": {name: dict(counts) for name, counts in sorted(flips.by_dump.items())},
        "notes": flips.notes,
    }


def lines(flips: Flips) -> list[str]:
    """The same for people, with the samples nearest the line."""
    figures = summary(flips)
    bound_of: dict[float | None, list[str]] = {}
    for name, value in sorted(flips.now.items()):
        bound_of.setdefault(value, []).append(name)
    now = "; ".join(
        f"{'none' if value is None else f'{value:g}'} for {_listed(names)}" for value, names in bound_of.items()
    )
    sign = "<" if flips.side == LOW else (">=" if flips.rule.name == NEAR else ">")
    out = [
        f"{flips.rule.step} / {flips.rule.name}: a document falls {sign} {flips.at:g} (now: {now or 'not asked'})",
        f"  {flips.documents:>10,}  documents reached the rule",
        f"  {flips.newly_removed:>10,}  newly removed",
        f"  {flips.newly_kept:>10,}  newly kept at this rule",
        *(f"  {count:>10,}    of them fall to {rule}" for rule, count in flips.falls_later.most_common()),
        f"  {figures['kept_after_all']:>10,}    of them stay in this step",
        f"  {flips.relabelled:>10,}  removed by a later rule as it is, and by this one then",
    ]
    if flips.unscored:
        out.append(f"  {flips.unscored:>10,}  have no score of it and are left as they are")
    for title, groups in (("language", flips.by_language), ("dump", flips.by_dump)):
        if groups:
            out.append(f"  {title:<24}{_REMOVED:>16}{_KEPT:>16}")
            out += [f"    {name:<22}{c[_REMOVED]:>16,}{c[_KEPT]:>16,}" for name, c in sorted(groups.items())]
    out += [f"  note: {note}" for note in flips.notes]
    if flips.nearest:
        out.append("nearest the line:")
    for row in flips.nearest:
        out.append(f"  {row['value']:g}  {row['now']} -> {row['then']}  {row['id']}  {row['language']}  {row['url']}")
        out.append(f"      {' '.join(row['text'].split())}")
    return out


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _judge(run: TextRun, flips: Flips, document: Document, nearest: Smallest[FlipSample]) -> None:
    """Count one document of the step, if it reached the rule."""
    rules = run.rules(flips.rule.step, document)
    order = [bounded.rule.name for bounded in rules]
    place = order.index(flips.rule.name) if flips.rule.name in order else None
    fell = fell_in(document, flips.rule.step)
    if place is None or (fell is not None and (fell not in order or order.index(fell) < place)):
        return  # not asked of this language, or removed before
    now = rules[place]
    bound = now.low if flips.side == LOW else now.high
    if bound is None and flips.language is None:
        return  # a language without this bound gets one only if it is named
    flips.documents += 1
    flips.now[document.language] = bound
    then = replace(now, low=flips.at) if flips.side == LOW else replace(now, high=flips.at)
    passes = now.passes(document), then.passes(document)
    if None in passes:
        flips.unscored += 1
        return
    becomes = fell
    if passes == (True, False) and fell != now.rule.name:
        becomes = now.rule.name
        flips.newly_removed += fell is None
        flips.relabelled += fell is not None
    elif passes == (False, True) and fell == now.rule.name:
        later = (bounded for bounded in rules[place + 1 :] if bounded.passes(document) is False)
        becomes = next((bounded.rule.name for bounded in later), None)
        flips.newly_kept += 1
        flips.falls_later.update([becomes] if becomes else [])
    kind = _REMOVED if fell is None and becomes else _KEPT if fell == now.rule.name != becomes else None
    if kind is not None:
        flips.by_language.setdefault(document.language, Counter())[kind] += 1
        flips.by_dump.setdefault(document.dump, Counter())[kind] += 1
    value = float(document.column(str(now.rule.column)))
    nearest.offer(abs(value - flips.at), document.id, partial(_sample, document, value, fell, becomes))


def _sample(document: Document, value: float, fell: str | None, becomes: str | None) -> FlipSample:
    now, then = (f"removed by {rule}" if rule else "kept" for rule in (fell, becomes))
    about = {"id": str(document.id), "url": document.url, "language": document.language, "dump": document.dump}
    return about | {"value": value, "now": now, "then": then, "text": document.text[:SAMPLE_CHARS]}


def _notes(run: TextRun, rule: Rule) -> list[str]:
    if rule.name != NEAR:
        return []
    notes = ["only pairs that share a band have a similarity: a lower threshold finds no others without a new run"]
    if not run.settings.get("verify"):
        notes.append("text.verify is off, so the bands decided and not the similarity: what fell below the bound fell")
    return notes
