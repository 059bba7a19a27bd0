"""Faults of a training and measurements beside it, for the report's section of that stage."""

from pathlib import Path

from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.run.rundata import Row, as_number, read_rows


def health_parts(folder: Path) -> list[Html]:
    """Bad steps, failed attempts, checkpoints measured beside training, looks inside a step; `folder`: the stage's."""
    read = {name: read_rows(folder / f"{name}.jsonl")[0] for name in ("incidents", "beside", "looks")}
    faults, _ = read_rows(folder / "attempts" / "diagnoses.jsonl")
    parts = list[Html]()
    if read["beside"]:
        parts += _beside(read["beside"])
    if faults:
        rows = [(r["attempt"], r["category"].replace("_", " "), r["step"], r["line"]) for r in faults]
        parts += [page.subheading("Attempts that failed"), page.table(["attempt", "what", "step", "diagnosis"], rows)]
    if read["incidents"]:
        rows = [(r["step"], r["incident"].replace("_", " "), r["why"], r["action"]) for r in read["incidents"]]
        heads = ["step", "what", "why", "then"]
        parts += [page.subheading("Steps that were not applied"), page.table(heads, rows)]
    if read["looks"]:
        parts += _look(read["looks"][-1])
    return parts


def _beside(rows: list[Row]) -> list[Html]:
    """Held-out bits per byte of checkpoints over training."""
    measured = sorted((row for row in rows if "bits_per_byte" in row), key=lambda row: row["step"])
    sources = list(dict.fromkeys(source for row in measured for source in row["bits_per_byte"]))
    lines = [
        Series(source, [(float(row["step"]), as_number(row["bits_per_byte"].get(source))) for row in measured])
        for source in sources
    ]
    caption = "Held-out bits per byte of checkpoints, measured while training went on"
    missing = [f"step {row['step']}: {row['error']}" for row in rows if "error" in row]
    parts = [page.figure(caption, line_chart(caption, lines, "step", "bits per byte"), unit="bits per byte")]
    return parts + [page.note(line) for line in missing]


def _look(row: Row) -> list[Html]:
    """Norms by layer of the step that was looked into last."""
    look = row["look"]
    layers = look["layers"]
    lines = [
        Series(kind, [(float(i), as_number(norms[kind])) for i, norms in enumerate(layers.values())])
        for kind in ("gradient", "weight")
    ]
    caption = f"Norms by layer in step {row['step']}"
    return [
        page.figure(caption, line_chart(caption, lines, "from embedding to head", "norm")),
        page.note(f"{100 * look['communication_share']:.0f} % of that step's time collectives were under way."),
    ]
