"""Report section about decontamination: removed documents beside the test items that they hold."""

import itertools
from pathlib import Path

from ilm_ray.base.jsonl import JsonObject, read_jsonl
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.text import off_notes
from ilm_ray.run.manifest import Manifest

SHOWN = 100
CHARS = 400


def decontamination_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Figures, items found by benchmark file, and the first documents that were removed beside their items."""
    title = "Decontamination"
    manifest = manifests.get("decontamination")
    if manifest is None:
        return page.section("decontamination", title, [page.note("The decontamination stage has not finished.")])
    if off := off_notes(manifest.metrics):
        return page.section("decontamination", title, off)
    metrics = {key: value for key, value in manifest.metrics.items() if key != "benchmarks"}
    parts = [page.figures(metrics)]
    if by_file := manifest.metrics["benchmarks"]:
        parts.append(page.folded("Benchmark files", [page.matrix(by_file, "benchmark file")]))
    files = sorted((run_dir / "decontamination").glob("removed-*.jsonl.zst"))
    rows = itertools.islice(itertools.chain.from_iterable(map(read_jsonl, files)), SHOWN)
    if shown := [_sample(row) for row in rows]:
        parts.append(page.folded(f"Documents removed (the first {SHOWN} at most; removed.csv has more)", shown))
    return page.section("decontamination", title, parts)


def _sample(row: JsonObject) -> Html:
    item = f"{row['benchmark']} {row['item']}"
    match = f"{row['share']:.0%} of an item's words · {row['url']}"
    return page.join(
        [
            Html(f'<div class="meta"><b>{page.text(match)}</b></div>'),
            page.quoted(row["passage"], CHARS),
            Html(f'<div class="meta">{page.text(f"the item: {item}")}</div>'),
            page.quoted(row["item_text"], CHARS),
        ]
    )
