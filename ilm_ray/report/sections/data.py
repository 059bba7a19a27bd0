"""Report sections about data: code, tokenizer and tokens (InternLM2 report section 3.2)."""

from pathlib import Path
from typing import Any

from ilm_ray.config.run_folder import stages_of
from ilm_ray.report.charts.basic import HALF, Bars, bar_chart
from ilm_ray.report.charts.text import flow_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.text import flow, off_notes
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import is_number, read_json

ORDER_FILES = 200
STEPS = {"read": "Read", "quality": "Duplicates and tiers"}


def code_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """The flow of the files, figures of the stage, and the order in which a repository's files were joined."""
    manifest = manifests.get("code")
    if manifest is None:
        return page.section("code", "Code data", [page.note("The code stage has not finished.")])
    if off := off_notes(manifest.metrics):
        return page.section("code", "Code data", off)
    parts = []
    funnel = read_json(run_dir / "code" / "files" / "funnel.json")
    if funnel:
        parts.append(page.figure("Files through the two steps", flow_chart("Code", "files", flow(funnel, STEPS))))
    parts.append(page.figures(manifest.metrics))
    order = read_json(run_dir / "code" / "order.json")
    if order:
        parts.append(page.folded("Files in the order of their dependencies", [_order(order)]))
    return page.section("code", "Code data", parts)


def tokens_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Vocabulary and token counts: tokens, documents, bytes per token of each source."""
    parts = []
    for stage, title in (("tokenizer", "Tokenizer"), ("tokens", "Tokens")):
        manifest = manifests.get(stage)
        if manifest is None and stage not in stages_of(run_dir):
            continue
        parts.append(Html(f"<h3>{page.text(title)}</h3>"))
        parts.append(page.figures(manifest.metrics) if manifest else page.note(f"The {stage} stage has not finished."))
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


def _order(order: dict[str, Any]) -> Html:
    """{repository: {"files": in order, "edges": number of imports}} as one table a repository."""
    parts = []
    for name, repository in order.items():
        files = repository["files"]
        rest = f", the first {ORDER_FILES} shown" if len(files) > ORDER_FILES else ""
        caption = f"{name}: {len(files)} files, {repository['edges']} imports among them{rest}"
        parts.append(page.table(["position", "file"], enumerate(files[:ORDER_FILES], start=1), caption))
    return page.tables(parts)


def _sources(manifests: dict[str, Manifest]) -> dict[str, dict[str, Any]]:
    """Counts of each source's training tokens; a source without splits is taken as it is."""
    counts = manifests["tokens"].metrics.get("sources") if "tokens" in manifests else None
    rows = {name: row.get("train", row) for name, row in counts.items()} if isinstance(counts, dict) else {}
    return {name: row for name, row in rows.items() if is_number(row.get("tokens"))}
