"""Report section about decontamination: which documents hold which test item."""

import itertools
from pathlib import Path

from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.manifest import Manifest
from ilm_ray.observe import page
from ilm_ray.observe.page import Html

SHOWN = 100
CHARS = 400


def decontamination_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Figures, items found by benchmark file, and the first documents that were removed beside their items."""
    title = "Decontamination"
    manifest = manifests.get("decontamination")
    if manifest is None:
        return page.section("decontamination", title, [page.note("The decontamination stage has not finished.")])
    metrics = {key: value for key, value in manifest.metrics.items() if key != "benchmarks"}
    by_file = page.matrix(manifest.metrics["benchmarks"], "benchmark file")
    folder = run_dir / "decontamination"
    rows = list(
        itertools.islice(
            itertools.chain.from_iterable(map(read_jsonl, sorted(folder.glob("removed-*.jsonl.zst")))), SHOWN
        )
    )
    parts = [page.figures(metrics), page.folded("Benchmark files", [by_file])]
    if rows:
        shown = [
            (
                row["url"],
                f"{row['benchmark']} {row['item']}",
                row["share"],
                row["passage"][:CHARS],
                row["item_text"][:CHARS],
            )
            for row in rows
        ]
        table = page.table(
            ["document", "item", "share of its words", "passage of the document", "text of the item"], shown
        )
        parts.append(page.folded(f"Documents removed (the first {SHOWN} at most; removed.csv has more)", [table]))
    return page.section("decontamination", title, parts)
