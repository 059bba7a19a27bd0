"""Report section about long-context data (report section 3.3): funnel, scores, documents near each bound."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.data.documents.smallest import Smallest
from ilm_ray.data.longtext.steps import KEPT, STEPS
from ilm_ray.data.longtext.thresholds import DIFFERENCE, Thresholds, parse_thresholds
from ilm_ray.report.charts.text import flow_chart, score_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.text import flow
from ilm_ray.report.sections.text_samples import FILES, ROWS, order, spread
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, read_json

TITLES = {"length": "Length", "statistics": "Statistics", "perplexity": "Perplexity difference"}
NEAREST = 6  # samples on each side of a line
SHOWN_CHARS = 320


@dataclass
class RuleScores:
    """Scores of a rule in a domain and language: bounds, scores on both sides, the documents nearest a bound."""

    bounds: list[float]
    fallen: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)
    fallen_at_line: Smallest[Row] = field(default_factory=lambda: Smallest(NEAREST))
    passed_at_line: Smallest[Row] = field(default_factory=lambda: Smallest(NEAREST))


def long_text_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """The funnel by domain, the distribution of each score with its bounds, samples on both sides of each bound."""
    folder = run_dir / "long_text"
    rows = read_json(folder / "funnel.json")
    manifest = manifests.get("long_text")
    if not rows or manifest is None:
        return page.section("long_text", "Long-context data", [page.note("The long_text stage has not finished.")])
    lines, looked_at = look(folder, parse_thresholds(manifest.settings["thresholds"]))
    parts = [
        page.paragraph(
            f"Documents of more than {page.size(manifest.settings['long_text']['min_bytes'])} of text are judged by "
            "their statistics, and then by what a model makes of them: the perplexity difference is how many nats a "
            "token gain from the segment before them, where that is least. Marked documents are drawn as long ones."
        ),
        page.figure("Documents through the three steps", flow_chart("Long text", "documents", flow(rows, TITLES))),
        _by_domain(rows),
        page.figures({"scorer": manifest.metrics.get("scorer", {})}),
        page.heading("Scores and their bounds"),
        page.note(
            f"From {page.number(looked_at)} rows of long documents, at most {FILES} files and {ROWS} rows of each. "
            "Orange: removed by this rule. A row's bounds hold for its domain and language."
        ),
        _charts(lines),
        page.heading("Nearest the line"),
        page.note("Of every bound the documents that just fell and just passed; of a joint, both of its sides."),
        *(_samples(*key, line) for key, line in sorted(lines.items(), key=lambda item: _place(*item[0]))),
    ]
    return page.section("long_text", "Long-context data", parts)


def look(folder: Path, thresholds: Thresholds) -> tuple[dict[tuple[str, str, str], RuleScores], int]:
    """(rule, domain, language) -> its scores in FILES files and ROWS rows of each; the number of rows read."""
    lines: dict[tuple[str, str, str], RuleScores] = {}
    count = 0
    for row in _rows(folder):
        count += 1
        fell = row.get("drop_rule")
        for rule, (low, high) in thresholds.of(row["domain"], row["language"]).items():
            value, bounds = row.get(rule), [bound for bound in (low, high) if bound is not None]
            if not isinstance(value, (int, float)) or not bounds:
                continue
            key = rule, row["domain"], row["language"]
            line = lines.setdefault(key, RuleScores(bounds))
            (line.fallen if fell == rule else line.passed).append(value)
            distance, bound = min((abs(value - bound), bound) for bound in bounds)
            at_line = line.fallen_at_line if fell == rule else line.passed_at_line
            at_line.offer(distance, order(int(row["id"])), partial(dict, row, value=value, bound=bound))
            if fell == rule:
                break  # the rules behind it have not run
    return lines, count


def _rows(folder: Path) -> Iterator[Row]:
    for outcome in ("kept", "removed"):
        for path in spread(sorted(folder.glob(f"{outcome}-*.jsonl.zst")), FILES):
            for position, row in enumerate(read_jsonl(path)):
                if position == ROWS:
                    break
                yield row


def _by_domain(rows: list[Row]) -> Html:
    """Documents and bytes of each domain and token source: long, removed by each rule, kept."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["domain"], row["source"]].append(row)
    lines = []
    for (domain, source), members in sorted(groups.items()):
        long_, kept = ([r for r in members if r["step"] == s and r["rule"] == KEPT] for s in (STEPS[0], STEPS[-1]))
        removed: Counter[str] = Counter()
        for row in members:
            if row["step"] != STEPS[0] and row["rule"] != KEPT:
                removed[row["rule"]] += row["documents"]
        documents, size = (
            sum(row[unit] for row in members if row["step"] == STEPS[0]) for unit in ("documents", "bytes")
        )
        lines.append(
            (
                f"{domain} / {source}",
                documents,
                sum(row["documents"] for row in long_),
                page.share(sum(row["bytes"] for row in long_), size),
                ", ".join(f"{rule} {count}" for rule, count in removed.most_common()) or "–",
                sum(row["documents"] for row in kept),
                page.size(sum(row["bytes"] for row in kept)),
            )
        )
    head = ["domain / source", "documents", "long", "of its bytes", "removed by", "kept", "size kept"]
    return page.table(head, lines, "Long documents, by domain and source of tokens")


def _charts(lines: dict[tuple[str, str, str], RuleScores]) -> Html:
    drawn = []
    for (rule, domain, language), line in sorted(lines.items(), key=lambda item: _place(*item[0])):
        title = f"{rule}: {domain} / {language}"
        drawn.append(page.figure(title, score_chart(title, line.fallen, line.passed, line.bounds), wide=False))
    return page.grid(drawn)


def _samples(rule: str, domain: str, language: str, line: RuleScores) -> Html:
    fallen, passed = line.fallen_at_line.items(), line.passed_at_line.items()
    shown = [
        *(_sample(row, "just fell") for row in fallen),
        *(_sample(row, "just passed") for row in passed),
    ]
    return page.folded(f"{rule}, {domain} / {language}: {len(fallen)} fell, {len(passed)} passed", shown)


def _sample(row: Row, side: str) -> Html:
    what = f"{side}: {page.cell(row['value'])} (bound {page.cell(row['bound'])}) · {page.size(row['bytes'])}"
    about = " · ".join(str(row.get(name) or "–")[:200] for name in ("language", "source", "id", "url"))
    meta = Html(f'<div class="meta"><b>{page.text(what)}</b> · {page.text(about)}</div>')
    if row["value"] is row.get(DIFFERENCE) and "ending" in row:
        ending = row["ending"][-SHOWN_CHARS:]
        return page.join(
            [meta, page.quoted(f"… {ending}", SHOWN_CHARS + 2), page.quoted(row["beginning"], SHOWN_CHARS)]
        )
    return page.join([meta, page.quoted(row["excerpt"], SHOWN_CHARS)])


def _place(rule: str, domain: str, language: str) -> tuple[bool, str, str, str]:
    """Sort key. The perplexity difference comes first: no other stage has it."""
    return rule != DIFFERENCE, rule, domain, language
