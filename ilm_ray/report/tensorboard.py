"""TensorBoard event files from the metrics that the training stages leave behind."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ilm_ray.run.rundata import read_rows

FOLDER = "tensorboard"
# Stage -> the column that counts its steps, first one found.
STEP_COLUMNS = {
    "pretrain": ("global_step", "step"),
    "sft": ("step",),
    "reward": ("step",),
    "ppo": ("iteration",),
}


def write_tensorboard(run_dir: Path) -> Path | None:
    """Write `run_dir/tensorboard/<stage>/` anew from each `<stage>/metrics.jsonl`; None where no stage has any.

    Every number of a row becomes a scalar, nested ones under `outer/inner`; steps are the stage's own count.
    """
    from torch.utils.tensorboard import SummaryWriter  # seconds to import: only who writes event files pays for it

    target = run_dir / FOLDER
    if target.exists():
        shutil.rmtree(target)  # written from scratch: appending would show every earlier point again
    written = False
    for stage, columns in STEP_COLUMNS.items():
        rows, _ = read_rows(run_dir / stage / "metrics.jsonl")
        if not rows:
            continue
        with SummaryWriter(str(target / stage)) as writer:
            for position, row in enumerate(rows):
                step = next((row[c] for c in columns if c in row), position)
                for name, value in scalars(row):
                    if name not in columns:
                        writer.add_scalar(name, value, int(step))
        written = True
    return target if written else None


def scalars(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row as (name, value); truth values and texts are left out."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
