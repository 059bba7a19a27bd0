"""What training logs: rows that the report, the metrics of Ray and whoever follows the run read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.observe import metrics
from ilm_ray.pretrain.loop import HasPhases, Task


class TrainingLog:
    """Rank 0 writes `metrics.jsonl`, `evaluations.jsonl`, `incidents.jsonl` and `looks.jsonl`."""

    def __init__(self, folder: Path, task: Task, rank: int) -> None:
        self.folder, self.task, self.rank = folder, task, rank

    def __call__(self, row: dict[str, Any]) -> None:
        if self.rank:
            return
        if "begins" in row:  # what a crashed attempt logged past its last checkpoint will be logged again
            self.folder.mkdir(parents=True, exist_ok=True)
            self._back_to(row["step"])
        elif "evaluations" in row:
            for evaluation in row["evaluations"]:
                self._append("evaluations.jsonl", {"step": row["step"], **evaluation})
        elif "look" in row:
            self._append("looks.jsonl", row)
        elif "incident" in row:
            self._back_to(row.pop("back_to", row["step"]))
            self._append("incidents.jsonl", row)
        else:
            if isinstance(self.task, HasPhases):
                row["phase"] = self.task.phases[self.task.phase_of(row["step"] - 1)[0]].name
            self._append("metrics.jsonl", row | {"steps": self.task.steps})
            stage = {"stage": self.folder.name}
            for metric, name in metrics.OF_TRAINING_ROWS:
                if name in row:
                    metrics.gauge(*metric).set(row[name], stage)

    def _back_to(self, step: int) -> None:
        """Drop what was logged of steps that will be done again."""
        _keep(self.folder / "metrics.jsonl", lambda row: row["step"] <= step)
        _keep(self.folder / "evaluations.jsonl", lambda row: row["step"] < step)
        _keep(self.folder / "incidents.jsonl", lambda row: row["step"] < step)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


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
