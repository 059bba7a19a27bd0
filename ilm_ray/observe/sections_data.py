"""Report sections about data: web text, code, tokenizer and tokens (InternLM2 report sections 3.1 and 3.2)."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard

from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.manifest import Manifest
from ilm_ray.errors import UserError
from ilm_ray.observe import page
from ilm_ray.observe.charts import HALF, Bars, bar_chart, funnel_chart
from ilm_ray.observe.page import Html
from ilm_ray.observe.rundata import Row, is_number, read_json

STEPS = ("format", "clean", "dedup", "safe", "quality")
KEPT = "kept"
SAMPLES_PER_RULE = 2
SAMPLE_CHARS = 300
SAMPLE_FILES = 3  # files and rows looked at per step: samples are to be seen, not to be counted
SAMPLE_ROWS = 2000
ORDER_FILES = 200


def text_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """What each step of the text pipeline kept and removed, by rule, language and dump, with samples."""
    folder = run_dir / "text"
    rows = read_json(folder / "funnel.json")
    if not rows:
        return page.section("text", "Web text", [page.note("No funnel yet: the text stage has not finished.")])
    documents, size = funnel_steps(rows, "documents"), funnel_steps(rows, "bytes")
    parts = [
        page.paragraph(
            "Every document runs through five steps. A bar shows what is left after a step; the pale rest is what the "
            "step removed of the documents it got."
        ),
        page.figure(
            "Documents left after each step", funnel_chart("Documents left after each step", "docs", documents)
        ),
        page.tables([_removed_per_rule(rows), _bytes_table(size)]),
        page.tables([_by(rows, "language"), _by(rows, "dump")]),
        *_samples(folder, [name for name, _, _ in documents]),
    ]
    return page.section("text", "Web text", parts)


def code_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Figures of the code stage and the order in which the files of a repository were joined."""
    manifest = manifests.get("code")
    if manifest is None:
        return page.section("code", "Code data", [page.note("The code stage has not finished.")])
    parts = [page.figures(manifest.metrics)]
    order = read_json(run_dir / "code" / "order.json")
    if order:
        parts.append(page.folded("Files in the order of their dependencies", [_order(order)]))
    return page.section("code", "Code data", parts)


def tokens_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Vocabulary and token counts: tokens, documents, bytes per token of each source."""
    parts = []
    for stage, title in (("tokenizer", "Tokenizer"), ("tokens", "Tokens")):
        parts.append(Html(f"<h3>{page.text(title)}</h3>"))
        found = manifests.get(stage)
        parts.append(page.figures(found.metrics) if found else page.note(f"The {stage} stage has not finished."))
    sources = _sources(manifests)
    if sources:
        names = list(sources)
        parts.append(
            page.row(
                [
                    page.figure(
                        caption,
                        bar_chart(caption, names, [Bars(key, [sources[n][key] for n in names])], width=HALF),
                        wide=False,
                    )
                    for key, caption in (
                        ("tokens", "Training tokens per source"),
                        ("bytes_per_token", "Bytes per token"),
                    )
                    if all(is_number(sources[n].get(key)) for n in names)
                ]
            )
        )
    return page.section("tokens", "Tokenizer and tokens", parts)


def funnel_steps(rows: Iterable[Row], unit: str) -> list[tuple[str, float, float]]:
    """(step, came in, left over) in `documents` or `bytes`, in the order of the pipeline."""
    came: dict[str, float] = defaultdict(float)
    left: dict[str, float] = defaultdict(float)
    for row in rows:
        came[row["step"]] += row[unit]
        left[row["step"]] += row[unit] if row["rule"] == KEPT else 0
    order = [s for s in STEPS if s in came] + [s for s in came if s not in STEPS]
    return [(step, came[step], left[step]) for step in order]


def _removed_per_rule(rows: list[Row]) -> Html:
    came = {step: total for step, total, _ in funnel_steps(rows, "documents")}
    removed: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        if row["rule"] != KEPT:
            both = removed[row["step"], row["rule"]]
            both[0] += row["documents"]
            both[1] += row["bytes"]
    order = list(came)
    lines = [
        (step, rule, documents, page.share(documents, came[step]), _size(size))
        for (step, rule), (documents, size) in sorted(
            removed.items(), key=lambda item: (order.index(item[0][0]), -item[1][0], item[0][1])
        )
    ]
    return page.table(["step", "rule", "documents", "of its input", "size"], lines, "Removed, by rule")


def _bytes_table(steps: list[tuple[str, float, float]]) -> Html:
    lines = [(name, _size(came), _size(kept), page.share(came - kept, came)) for name, came, kept in steps]
    return page.table(["step", "came in", "left", "removed"], lines, "Size, by step")


def _by(rows: list[Row], key: str) -> Html:
    """Documents kept after each step, one line a language or dump, and the share left of what came in."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row.get(key) or "unknown")].append(row)
    order = [step for step, _, _ in funnel_steps(rows, "documents")]
    lines = []
    for name, members in sorted(groups.items()):
        left = {step: kept for step, _, kept in funnel_steps(members, "documents")}
        first = next((came for step, came, _ in funnel_steps(members, "documents") if step == order[0]), 0.0)
        last = left.get(order[-1], 0.0)
        lines.append((name, first, *(left.get(step, 0.0) for step in order), page.share(last, first)))
    return page.table([key, "input", *order, "left of all"], lines, f"Documents left, by {key}")


def _samples(folder: Path, steps: list[str]) -> list[Html]:
    parts = []
    for step in steps:
        shown = removed_samples(folder / step)
        if shown:
            parts.append(page.folded(f"Samples removed by {step}", [_sample(row) for row in shown]))
    return parts


def removed_samples(folder: Path) -> list[Row]:
    """The first few removed documents of each rule in `folder`. Raises UserError where a file is damaged."""
    found: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("removed-*.jsonl.zst"))[:SAMPLE_FILES]:
        try:
            for position, row in enumerate(read_jsonl(path)):
                if position == SAMPLE_ROWS:
                    break
                same = found.setdefault(str(row.get("drop_rule")), [])
                if len(same) < SAMPLES_PER_RULE:
                    same.append(row)
        except (ValueError, zstandard.ZstdError) as error:
            raise UserError(f"{path} is damaged ({error}); delete {folder.parent} and run its job again") from None
    return [row for rule in sorted(found) for row in found[rule]]


def _sample(row: Row) -> Html:
    value, threshold = row.get("drop_value"), row.get("threshold")
    why = f"{row.get('drop_rule')}: {page.cell(value)}"
    if threshold is not None:
        why += f" (threshold {page.cell(threshold)})"
    meta = f'<div class="meta">{page.text(why)} · {page.text(str(row.get("url", ""))[:200])}</div>'
    return Html(meta + page.quoted(row.get("text", ""), SAMPLE_CHARS))


def _order(order: dict[str, Any]) -> Html:
    """{repository: {"files": in order, "edges": number of imports}} as one table a repository."""
    parts = []
    for name, found in order.items():
        files = found["files"]
        rest = f", the first {ORDER_FILES} shown" if len(files) > ORDER_FILES else ""
        caption = f"{name}: {len(files)} files, {found['edges']} imports among them{rest}"
        parts.append(page.table(["position", "file"], enumerate(files[:ORDER_FILES], start=1), caption))
    return page.tables(parts)


def _sources(manifests: dict[str, Manifest]) -> dict[str, dict[str, Any]]:
    """Counts of each source's training tokens; a source without splits is taken as it is."""
    found = manifests["tokens"].metrics.get("sources") if "tokens" in manifests else None
    rows = {name: row.get("train", row) for name, row in found.items()} if isinstance(found, dict) else {}
    return {name: row for name, row in rows.items() if is_number(row.get("tokens"))}


def _size(size: float) -> str:
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size:.0f} B"
