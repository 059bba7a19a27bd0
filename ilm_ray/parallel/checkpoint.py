"""Distributed checkpoints: any number of ranks can load them; the COMMIT marker is written last."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn, optim
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

COMMIT = "COMMIT"
Part = tuple[nn.Module, optim.Optimizer]  # a rank has one, or one for each of its pipeline stages
# Flat optimizer state: names are then those of the parameters, whatever the layout.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


def save(folder: Path, step: int, parts: Sequence[Part], state: dict[str, Any], keep: int) -> None:
    """Save `<folder>/step-<step>`; every rank calls it. `state` is small JSON: cursor, schedule, tokens seen."""
    target = folder / f"step-{step:08d}"
    if dist.get_rank() == 0 and target.exists():  # left by a run that was killed while saving
        shutil.rmtree(target)
    dist.barrier()
    dcp.save(_together(_states(parts)), checkpoint_id=str(target))
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


def restore(folder: Path, parts: Sequence[Part]) -> dict[str, Any] | None:
    """Load the newest committed checkpoint, whatever layout wrote it; None if there is none. Every rank calls it."""
    found = complete(folder)
    if not found:
        return None
    states = _states(parts)
    loaded = _together(states)
    dcp.load(loaded, checkpoint_id=str(found[-1]))
    for (model, optimizer), (weights, moments) in zip(parts, states, strict=True):
        set_state_dict(
            model,
            optimizer,
            model_state_dict={name: loaded["model"][name] for name in weights},
            optim_state_dict={name: loaded["optimizer"][name] for name in moments},
            options=_OPTIONS,
        )
    return json.loads((found[-1] / COMMIT).read_text())


def restore_whole(folder: Path, model: nn.Module) -> None:
    """Load the newest committed checkpoint's weights into a whole model, in one process alone."""
    dcp.load({"model": model.state_dict()}, checkpoint_id=str(complete(folder)[-1]), no_dist=True)


def _states(parts: Sequence[Part]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [get_state_dict(model, optimizer, options=_OPTIONS) for model, optimizer in parts]


def _together(states: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One checkpoint of all stages: they share no layer, so they share no name."""
    return {
        "model": {name: value for weights, _ in states for name, value in weights.items()},
        "optimizer": {name: value for _, moments in states for name, value in moments.items()},
    }
