"""Reads a run folder for people: rows of logs, JSON documents, manifests. A missing file counts as an empty one."""

import json
import math
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config.road import STAGES
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest

Row = dict[str, Any]


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The rows of a JSON Lines log and the number of lines that are no JSON object (a crash can cut one)."""
    rows: list[Row] = []
    broken = 0
    if not path.is_file():
        return rows, broken
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += 1
    return rows, broken


def read_json(path: Path) -> Any:
    """A JSON document, or None where the file is missing. Raises UserError where it is damaged."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); delete its stage's folder and run that job again"
        ) from None


def read_manifests(run_dir: Path) -> dict[str, Manifest]:
    """Finished stages in their order, those that brought models first. Raises UserError for a damaged manifest."""
    brought = sorted(f"base/{path.parent.name}" for path in run_dir.glob(f"base/*/{manifests.NAME}"))
    by_stage = {stage: manifests.load(run_dir / stage) for stage in (*brought, *STAGES)}
    return {stage: manifest for stage, manifest in by_stage.items() if manifest is not None}


def column(rows: list[Row], x: str, y: str) -> list[tuple[float, float]]:
    """(x, y) of all rows that have both as numbers; a missing y becomes NaN, so that a chart shows the gap."""
    return [(float(row[x]), as_number(row.get(y))) for row in rows if is_number(row.get(x))]


def as_number(value: Any) -> float:
    """The figure as a float; NaN for any other value of a log."""
    return float(value) if is_number(value) else math.nan


def is_number(value: Any) -> bool:
    """Whether a value of a log can be drawn; truth values cannot."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
