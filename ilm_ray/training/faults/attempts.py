"""Attempts at one training: each worker group that Ray Train starts leaves a folder of its own."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilm_ray.base.files import write_text_atomic
from ilm_ray.run.rundata import read_json
from ilm_ray.training.faults.diagnosis import diagnose, read_traces

# Attempts in a row without progress before the job gives up: a bug would otherwise be retried for ever.
WITHOUT_PROGRESS = 3


@dataclass(frozen=True)
class Attempts:
    """`<stage>/attempts/attempt-<n>`: `start.json`, the traces of its ranks, and `done` if it came to the end, or
    `stopped`, or `left`. `earlier`: how many of them another start of the job made; the cause of their end may be
    mended."""

    folder: Path
    earlier: int = 0

    def all(self) -> list[Path]:
        """The folders of all attempts, in the order in which they began."""
        return sorted(self.folder.glob("attempt-*"))

    def begin(self, step: int, workers: int) -> Path:
        """The folder of an attempt that goes on from `step` on `workers` ranks."""
        folder = self.folder / f"attempt-{len(self.all()):04d}"
        folder.mkdir(parents=True)
        start = {"step": step, "workers": workers, "time": time.time()}
        write_text_atomic(folder / "start.json", json.dumps(start))
        return folder

    def hopeless(self, step: int) -> str | None:
        """The reason why another attempt from `step` would end as the last ones did, or None."""
        before = self.all()[self.earlier :]
        if before and (last := diagnose(read_traces(before[-1]))).final and not ended_well(before[-1]):
            return last.line()
        same = [path for path in before[-WITHOUT_PROGRESS:] if started(path).get("step") == step and failed(path)]
        if len(same) == WITHOUT_PROGRESS:
            return f"{WITHOUT_PROGRESS} attempts in a row ended before a checkpoint after step {step}"
        return None


def started(attempt: Path) -> dict[str, Any]:
    """step, workers, time."""
    return read_json(attempt / "start.json") or {}


def finished(attempt: Path) -> bool:
    """It came to the end of training."""
    return (attempt / "done").exists()


def stopped(attempt: Path) -> bool:
    """Whether the attempt ended early, with a checkpoint, because a stop was requested."""
    return (attempt / "stopped").exists()


def left(attempt: Path) -> bool:
    """Whether the attempt ended early, with a checkpoint, because a node was about to leave."""
    return (attempt / "left").exists()


def ended_well(attempt: Path) -> bool:
    """Whether an attempt (its folder) came to its end, was asked to stop or left its nodes in time."""
    return finished(attempt) or stopped(attempt) or left(attempt)


def failed(attempt: Path) -> bool:
    """It ended by a fault, not because the cluster changed its size."""
    faults = (trace.ray or (trace.error and not trace.taken_down) for trace in read_traces(attempt))
    return not ended_well(attempt) and any(faults)


def lost(attempt: Path, following: Path) -> dict[str, float]:
    """Steps that the `following` attempt repeats, and seconds between the last heartbeat and its start."""
    traces = read_traces(attempt)
    reached = max((trace.life.get("step", 0) for trace in traces), default=0)
    last = max((trace.life.get("time", 0.0) for trace in traces), default=0.0)
    start = started(following)
    return {"lost_steps": max(0, reached - start["step"]), "recovery_seconds": round(start["time"] - last, 1)}
