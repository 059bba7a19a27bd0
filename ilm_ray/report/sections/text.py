"""The report's section about web text (InternLM2 report section 3.1): documents kept and removed, the reasons, and the
cost."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.config.named_data import off_line
from ilm_ray.data.documents.cost import by_step
from ilm_ray.data.documents.paths import STEPS
from ilm_ray.report.charts.basic import HALF, Bars, Series, bar_chart, line_chart
from ilm_ray.report.charts.text import FlowStep, flow_chart
from ilm_ray.report.explain.text_run import bounds, text_run
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.documents import duplicates, rules_and_samples
from ilm_ray.report.sections.text_samples import look
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, is_number, read_json

KEPT = "kept"
TITLES = {"format": "Format", "clean": "Clean", "dedup": "Dedup", "safe": "Safe", "quality": "High-quality"}
STREAMS = 5  # removed streams drawn per step; the rest are one
FILES_SHOWN = 100  # of those that could not be read whole
_DAMAGE = ("malformed", "truncated", "not_an_archive", "empty_file")
GROUPS = 6  # languages or dumps with a column of their own
FORECASTS = (1_000_000, 1_000_000_000)


def text_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """The funnel of documents and bytes, rules with samples, duplicates, records, classifiers, cost."""
    folder = run_dir / "text"
    rows = read_json(folder / "funnel.json")
    if not rows:
        return page.section("text", "Web text", [page.note("No funnel yet: the text stage has not finished.")])
    metrics = manifests["text"].metrics if "text" in manifests else {}
    run = text_run(run_dir)
    seen = look(run)
    parts = [
        *off_notes(metrics),
        page.paragraph(
            "Every document runs through five steps. The stream gets narrower where a step takes documents out; what "
            "is taken out flows to the right, by the first rule that a document broke."
        ),
        page.figure("Documents through the five steps", flow_chart("Web text", "documents", flow(rows))),
        *_removal_and_retention(rows),
        page.tables([_removed_per_rule(rows), _bytes_table(rows), _by(rows, "language"), _by(rows, "dump")]),
        _shares(rows),
        *rules_and_samples(run, seen),
        *duplicates(run, metrics, seen),
        *_records(folder),
        *_classifiers(metrics, run.settings),
        *_cost(folder),
    ]
    return page.section("text", "Web text", parts)


def off_notes(metrics: Row) -> list[Html]:
    """A line on the stage's steps that were off, as its manifest says."""
    off = metrics.get("off")
    return [page.note(off_line(off))] if isinstance(off, dict) and off else []


def funnel_steps(rows: Iterable[Row], unit: str, order: Collection[str] = STEPS) -> list[tuple[str, float, float]]:
    """(step, came in, left over) in `documents` or `bytes`, in the order of the pipeline."""
    came: dict[str, float] = defaultdict(float)
    left: dict[str, float] = defaultdict(float)
    for row in rows:
        came[row["step"]] += row[unit]
        left[row["step"]] += row[unit] if row["rule"] == KEPT else 0
    known = [step for step in order if step in came] + [step for step in came if step not in order]
    return [(step, came[step], left[step]) for step in known]


def flow(rows: list[Row], titles: Mapping[str, str] = TITLES) -> list[FlowStep]:
    """The steps of `titles`, in documents; beyond the largest few, a step's rules are one stream."""
    steps = []
    for name, came, _ in funnel_steps(rows, "documents", titles):
        removed = _per_rule(row for row in rows if row["step"] == name).most_common()
        if len(removed) > STREAMS + 1:
            rest = removed[STREAMS:]
            removed = [*removed[:STREAMS], (f"{len(rest)} other rules", sum(count for _, count in rest))]
        steps.append(FlowStep(titles.get(name, name), came, removed))
    return steps


def _per_rule(rows: Iterable[Row], unit: str = "documents") -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        if row["rule"] != KEPT:
            counts[row["rule"]] += row[unit]
    return counts


def _removal_and_retention(rows: list[Row]) -> list[Html]:
    """The share that each step removes of its input, and the share left of everything: WanJuan-CC's pair of figures."""
    charts = []
    for unit, caption in (("documents", "documents"), ("bytes", "bytes of text")):
        steps = funnel_steps(rows, unit)
        # Format turns pages into text: what it removes has no text yet, so bytes count from what it leaves.
        whole = steps[0][2] if unit == "bytes" else steps[0][1]
        shown = steps[1:] if unit == "bytes" else steps
        bars = [
            Bars("left of all", [100 * left / whole if whole else 0.0 for _, _, left in shown]),
            Bars("removed by the step", [100 * (came - left) / came if came else 0.0 for _, came, left in shown]),
        ]
        title = f"Left of all, and removed by the step, {caption}"
        names = [TITLES.get(name, name) for name, _, _ in shown]
        charts.append(page.figure(title, bar_chart(title, names, bars, " %", width=HALF), wide=False))
    return [page.row(charts)]


def _removed_per_rule(rows: list[Row]) -> Html:
    lines = []
    for step, came, _ in funnel_steps(rows, "documents"):
        mine = [row for row in rows if row["step"] == step]
        size = _per_rule(mine, "bytes")
        for rule, count in _per_rule(mine).most_common():
            lines.append((step, rule, count, page.share(count, came), page.size(size[rule])))
    return page.table(["step", "rule", "documents", "of its input", "size"], lines, "Removed, by rule")


def _bytes_table(rows: list[Row]) -> Html:
    lines = [
        (name, page.size(came), page.size(left), page.share(came - left, came))
        for name, came, left in funnel_steps(rows, "bytes")
    ]
    return page.table(["step", "came in", "left", "removed"], lines, "Size of the text, by step")


def _by(rows: list[Row], key: str) -> Html:
    """Documents left after each step, one line a language or dump, the largest first."""
    groups = _groups(rows, key)
    order = [step for step, _, _ in funnel_steps(rows, "documents")]
    lines = []
    for name, members in groups.items():
        steps = funnel_steps(members, "documents")
        left = {step: kept for step, _, kept in steps}
        first = next((came for step, came, _ in steps if step == order[0]), 0.0)
        last = left.get(order[-1], 0.0)
        lines.append((name, first, *(left.get(step, 0.0) for step in order), page.share(last, first)))
    return page.table([key, "input", *order, "left of all"], lines, f"Documents left, by {key}")


def _shares(rows: list[Row]) -> Html:
    """Share of a step's input that each rule removed, by language and by dump; the darker the more."""
    return page.folded(
        "Removed per rule, by language and by dump", [_share_table(rows, key) for key in ("language", "dump")]
    )


def _share_table(rows: list[Row], key: str) -> Html:
    groups = _groups(rows, key)
    lines = []
    for step, _, _ in funnel_steps(rows, "documents"):
        here = {name: [row for row in members if row["step"] == step] for name, members in groups.items()}
        came = {name: sum(row["documents"] for row in members) for name, members in here.items()}
        removed = {name: _per_rule(members) for name, members in here.items()}
        for rule, _ in _per_rule(row for row in rows if row["step"] == step).most_common():
            lines.append((f"{step} / {rule}", *(_heat(removed[name][rule], came[name]) for name in groups)))
    return page.table(["rule", *groups], lines, f"Share of the step's input that a rule removed, by {key}")


def _heat(part: float, whole: float) -> Html:
    """A share on one of six shades, nothing where there is nothing."""
    level = min(5, 1 + int(10 * part / whole)) if part else 0
    return Html(f'<span class="heat h{level}">{page.share(part, whole) if part else "–"}</span>')


def _groups(rows: list[Row], key: str) -> dict[str, list[Row]]:
    """Rows by language or dump, the largest groups first; beyond a few, the small ones are one group."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row.get(key) or "unknown")].append(row)
    largest = sorted(groups, key=lambda name: (-sum(row["documents"] for row in groups[name]), name))
    named = {name: groups[name] for name in largest[:GROUPS]}
    rest = largest[GROUPS:]
    return named | ({f"{len(rest)} others": [row for name in rest for row in groups[name]]} if rest else {})


def _records(folder: Path) -> list[Html]:
    """The contents of the input files: records read, by kind, and bytes that are no record, by reason."""
    records = read_json(folder / "records.json")
    if not isinstance(records, dict) or not records:
        return []
    skipped = {name: count for name, count in records.items() if "bytes" in name}
    counts = [(name, count) for name, count in sorted(records.items()) if name not in skipped]
    tables = [page.table(["records", "count"], counts, "What the input files held")]
    if skipped:
        lines = [(name.removeprefix("skipped_bytes_"), page.size(size)) for name, size in sorted(skipped.items())]
        tables.append(page.table(["reason", "bytes"], lines, "Bytes that are no record"))
    return [page.heading("Records"), page.tables(tables), *_damaged_files(folder / "files.jsonl.zst")]


def _damaged_files(path: Path) -> list[Html]:
    """Input files that were not read whole, with the fault of each."""
    if not path.is_file():
        return []
    lines = []
    for row in read_jsonl(path):
        wrong = {n: c for n, c in row["records"].items() if n.startswith("skipped") or n in _DAMAGE}
        if wrong:
            lines.append((row["file"], ", ".join(f"{name} {count}" for name, count in sorted(wrong.items()))))
    if not lines:
        return []
    rest = f", the first {FILES_SHOWN} shown" if len(lines) > FILES_SHOWN else ""
    caption = f"{len(lines)} files that could not be read whole{rest}"
    return [page.folded(caption, [page.table(["file", "what was found"], lines[:FILES_SHOWN])])]


def _classifiers(metrics: Row, settings: Row) -> list[Html]:
    """One card a classifier: figures on its held-out labels, and its threshold curve where the card has one."""
    cards = metrics.get("classifiers")
    if not isinstance(cards, dict) or not cards:
        return []
    lines = [
        [name, bounds(settings, name, "")[0], part, figures.get("texts", figures.get("held_out")),
         *(figures.get(key) for key in ("auc", "accuracy", "f1"))]
        for name, card in cards.items()
        for part, figures in _measured(card).items()
    ]  # fmt: skip
    head = ["classifier", "threshold in use", "labels", "held out", "AUC", "accuracy", "F1 of bad"]
    parts = [
        page.heading("Classifiers"),
        page.paragraph(
            "A score is the probability that a text is good, measured on labels that were held back. Accuracy and F1 "
            "are those at the threshold that the card itself chose."
        ),
        page.table(head, lines, "On held-out labels"),
    ]
    charts = []
    for name, card in cards.items():
        curve = card.get("curve") if isinstance(card, dict) else None
        points = [point for point in curve if is_number(point.get("threshold"))] if isinstance(curve, list) else []
        keys = [key for key in (points[0] if points else {}) if key != "threshold" and is_number(points[0][key])]
        series = [Series(key, [(p["threshold"], p[key]) for p in points]) for key in keys]
        if series:
            title = f"Threshold curve of {name}"
            chart = line_chart(title, series, "threshold", "share", width=HALF, height=220)
            charts.append(page.figure(title, chart, wide=False))
    return [*parts, page.row(charts)] if charts else parts


def _measured(card: object) -> dict[str, Row]:
    """The parts of a card that hold figures: all labels, then each language, wherever the card nests them."""
    if not isinstance(card, dict):
        return {}
    parts = {name: part for name, part in card.items() if isinstance(part, dict) and "accuracy" in part}
    for name, part in card.items():
        if name not in parts and isinstance(part, dict):
            parts |= _measured(part)
    return parts


def _cost(folder: Path) -> list[Html]:
    """CPU time and memory of each step, per document and core, and a forecast for many documents."""
    import pandas as pd

    cost = by_step(folder / "cost")
    if cost.empty:
        return []
    everything = int(cost["documents"].iloc[0])  # that came to the first step
    cost.loc["all"] = {
        "documents": everything,
        "bytes": float("nan"),
        "seconds": cost["seconds"].sum(),
        "peak_mb": cost["peak_mb"].max(),
    }
    seconds = cost["seconds"].where(cost["seconds"] > 0)
    hours = cost["seconds"] / 3600 / max(everything, 1)
    table = pd.DataFrame(
        {
            "documents": cost["documents"],
            "docs/s/core": cost["documents"] / seconds,
            "MB/s/core": cost["bytes"] / seconds / 1e6,
            "CPU s": cost["seconds"].map(page.number),
            "peak MiB": cost["peak_mb"].map("{:,.0f}".format),
            **{
                f"core-hours for {page.number(documents)}": (hours * documents).map(lambda value: page.number(value, 3))
                for documents in FORECASTS
            },
        }
    )
    days = hours["all"] * FORECASTS[-1] / 1000 / 24
    return [
        page.heading("Cost"),
        page.paragraph(
            "CPU seconds are those of a task and its children. The forecasts are for that many documents at the start "
            f"of the road, of the kind seen here; {page.number(FORECASTS[-1])} of them take {page.number(days, 3)} "
            "days on a thousand cores."
        ),
        page.table(["step", *table.columns], table.reset_index().values.tolist(), "Cost, by step"),
    ]
