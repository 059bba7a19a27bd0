"""Logs of a training: rows for the report, for Ray's metrics and for the driver that follows the run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilm_ray.base.files import write_text_atomic
from ilm_ray.run import metrics
from ilm_ray.run.journal import read_journal
from ilm_ray.training.faults.attempts import Attempts, started
from ilm_ray.training.task import Task


class TrainingLog:
    """Rank 0 writes `metrics.jsonl`, `evaluations.jsonl` and `incidents.jsonl`."""

    def __init__(self, folder: Path, task: Task, rank: int) -> None:
        self.folder, self.task, self.rank = folder, task, rank
        self._useful, self._tokens = 0.0, 0

    def __call__(self, row: dict[str, Any]) -> None:
        if self.rank:
            return
        if "begins" in row:  # rows that a crashed attempt logged past its last checkpoint will come again
            self.folder.mkdir(parents=True, exist_ok=True)
            self._back_to(row["step"])
        elif "evaluations" in row:
            for evaluation in row["evaluations"]:
                self._append("evaluations.jsonl", {"step": row["step"], **evaluation})
        elif "incident" in row:
            self._back_to(row.pop("back_to", row["step"]))
            self._append("incidents.jsonl", row)
            kind = {"stage": self.folder.name, "incident": row["incident"]}
            metrics.counter(metrics.BAD_STEPS).inc(tags=kind)
        else:
            if self.task.phases:
                row["phase"] = self.task.phases[self.task.phase_of(row["step"] - 1)[0]].name
            row["steps"] = self.task.steps
            self._append("metrics.jsonl", row)
            self._useful += useful_seconds(row, self._tokens)
            self._tokens = row["tokens"]
            self._export(row)

    def _export(self, row: dict[str, Any]) -> None:
        stage = {"stage": self.folder.name}
        for metric, name in metrics.OF_TRAINING_ROWS:
            if name in row:
                metrics.gauge(metric).set(row[name], stage)
        if attempts := Attempts(self.folder / "attempts").all():
            passed = time.time() - started(attempts[0])["time"]
            metrics.gauge(metrics.GOODPUT).set(self._useful / max(passed, 1e-9), stage)

    def _back_to(self, step: int) -> None:
        """Drop log rows of steps that will be done again."""
        _keep(self.folder / "metrics.jsonl", lambda row: row["step"] <= step)
        _keep(self.folder / "evaluations.jsonl", lambda row: row["step"] < step)
        _keep(self.folder / "incidents.jsonl", lambda row: row["step"] < step)
        self._useful, self._tokens = 0.0, 0
        for row in read_journal(self.folder / "metrics.jsonl"):
            self._useful += useful_seconds(row, self._tokens)
            self._tokens = row["tokens"]

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def useful_seconds(row: dict[str, Any], tokens_before: int) -> float:
    """Seconds of a row's window that went into steps, and not into evaluation or into waiting for data and checkpoints.

    row: of `metrics.jsonl`; tokens_before: all tokens trained on before it.
    """
    training = (row["tokens"] - tokens_before) / row["tokens_per_second"]
    return float(training * (1.0 - row["data_share"] - row["checkpoint_share"]))


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON Lines log without the rows that are not wanted; a last line cut by a crash goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if wanted(row):
            kept.append(line + "\n")
    write_text_atomic(path, "".join(kept))
