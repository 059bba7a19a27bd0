"""Report section about models from outside that the run began with."""

from pathlib import Path

from ilm_ray.config.named_data import off_line
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.run.manifest import Manifest

COLUMNS = ("setting", "from", "architecture", "parameters", "context", "vocabulary")


def base_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """One row a model, and the tokens that were added to its vocabulary; nothing in a run that brought none."""
    rows = {name: m.metrics["summary"] for name, m in manifests.items() if name.startswith("base/")}
    if not rows:
        return Html("")
    added = {token: number for row in rows.values() for token, number in row["added_tokens"].items()}
    parts = [page.table(["stage", *COLUMNS], [(name, *map(row.get, COLUMNS)) for name, row in rows.items()])]
    if added:
        shown = ", ".join(f"{token} ({number})" for token, number in added.items())
        parts.append(page.note(f"Tokens added to the vocabulary: {shown}."))
    return page.section("base", "Models from outside", parts)


def off_notes(manifest: Manifest | None) -> list[Html]:
    """The steps and the data that a stage left out, by its manifest."""
    metrics = {} if manifest is None else manifest.metrics
    off, left_out = metrics.get("off"), metrics.get("left_out")
    notes = [off_line(off)] if isinstance(off, dict) and off else []
    return [page.note(str(line)) for line in [*notes, *(left_out if isinstance(left_out, list) else [])]]
