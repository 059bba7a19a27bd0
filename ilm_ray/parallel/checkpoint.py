"""Distributed checkpoints: any number of ranks can load them; the COMMIT marker is written last."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn, optim
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

COMMIT = "COMMIT"
# Flat optimizer state: names are then those of the parameters, whatever the layout.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


def save(
    folder: Path, step: int, model: nn.Module, optimizer: optim.Optimizer, state: dict[str, Any], keep: int
) -> None:
    """Save `<folder>/step-<step>`; every rank calls it. `state` is small JSON: cursor, schedule, tokens seen."""
    target = folder / f"step-{step:08d}"
    if dist.get_rank() == 0 and target.exists():  # left by a run that was killed while saving
        shutil.rmtree(target)
    dist.barrier()
    weights, moments = get_state_dict(model, optimizer, options=_OPTIONS)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=str(target))
    dist.barrier()
    if dist.get_rank() == 0:
        temporary = target / f".{COMMIT}"
        temporary.write_text(json.dumps({"step": step, **state}))
        temporary.replace(target / COMMIT)
        for old in complete(folder)[:-keep]:
            shutil.rmtree(old)


def complete(folder: Path) -> list[Path]:
    """Committed checkpoints, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"step-*/{COMMIT}"))


def newest_step(folder: Path) -> int:
    """Step of the newest committed checkpoint; 0 if there is none."""
    found = complete(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def restore(folder: Path, model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any] | None:
    """Load the newest committed checkpoint, whatever layout wrote it; None if there is none. Every rank calls it."""
    found = complete(folder)
    if not found:
        return None
    weights, moments = get_state_dict(model, optimizer, options=_OPTIONS)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=str(found[-1]))
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_OPTIONS)
    return json.loads((found[-1] / COMMIT).read_text())
