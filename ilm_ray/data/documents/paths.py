"""Paths in the text stage's folder, and its small files: `<run>/text/<pass>/{kept,removed,stats}-NNNNN.*`.

Pass 1 writes `cleaned`: the documents that Format and Clean left, before duplicates are known. Pass 2 reads that and
writes `final`. A document that falls lies in `removed` of the pass in which it fell.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.files import temporary_path, write_text_atomic
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.sources import Source, jsonable

CLEANED, FINAL = "cleaned", "final"
STEPS_OF = {CLEANED: ("format", "clean"), FINAL: ("dedup", "safe", "quality")}  # the steps that remove documents
STEPS = (*STEPS_OF[CLEANED], *STEPS_OF[FINAL])
SOURCES = "sources.json"


def outputs(folder: Path, made_by: str, index: int) -> tuple[Path, Path, Path]:
    """Kept, removed and stats file that a pass made of one input file; the stats file is written last."""
    at = folder / made_by
    return (
        at / f"kept-{index:05d}.jsonl.zst",
        at / f"removed-{index:05d}.jsonl.zst",
        at / f"stats-{index:05d}.json",
    )


def is_done(folder: Path, made_by: str, index: int) -> bool:
    """Whether all files of a pass for input file `index` are there; they appear whole."""
    return all(path.is_file() for path in outputs(folder, made_by, index))


def signatures_path(folder: Path, index: int) -> Path:
    """MinHash signatures of input file `index`."""
    return folder / "dedup" / f"signatures-{index:05d}.npz"


def drops_path(folder: Path, index: int) -> Path:
    """Duplicates found in input file `index`."""
    return folder / "dedup" / f"drops-{index:05d}.npz"


def replaced_path(folder: Path) -> Path:
    """Survivors of earlier runs that a document of this one replaces."""
    return folder / "dedup" / "replaced.jsonl.zst"


def cost_path(folder: Path, made_by: str, index: int) -> Path:
    """Costs of a pass for one file; no part of the result, since it differs from run to run."""
    return folder / "cost" / f"{made_by}-{index:05d}.json"


def model_path(folder: Path, name: str) -> Path:
    """Folder of a classifier: its weights and its card."""
    return folder / "models" / name


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a .npz atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as out:
        np.savez(out, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def write_sources(folder: Path, sources: Iterable[Source]) -> None:
    """The frozen list of input files, which turns an id back into a place."""
    write_text_atomic(folder / SOURCES, json.dumps([jsonable(source) for source in sources], indent=1))


def read_sources(folder: Path) -> list[Source]:
    """The input files of a run, in their frozen order."""
    return [Source(**row) for row in json.loads((folder / SOURCES).read_text(encoding="utf-8"))]


def read_stats(folder: Path, made_by: str, index: int) -> dict[str, Any]:
    """{"funnel": rows, "records": counts} of one file."""
    stats: dict[str, Any] = json.loads(outputs(folder, made_by, index)[2].read_text(encoding="utf-8"))
    return stats


def kept_and_removed(folder: Path, made_by: str, index: int, step: str) -> dict[str, int]:
    """Documents of one file by the verdict of `step`: "kept" and "removed"."""
    funnel = Funnel()
    funnel.merge(read_stats(folder, made_by, index)["funnel"])
    return {outcome: funnel.documents(step, outcome == "kept") for outcome in ("kept", "removed")}
