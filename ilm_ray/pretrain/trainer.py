"""Ray Train around the training loop: workers, process group, restart after a crash, metrics."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ilm_ray.checkpoints import commit
from ilm_ray.checkpoints.settings import storage_of
from ilm_ray.config import Config
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.observe import metrics
from ilm_ray.observe.journal import read_journal
from ilm_ray.observe.progress import Progress
from ilm_ray.parallel.layout import Layout
from ilm_ray.pretrain.loop import LoopSettings, Task, train

# How often a crashed worker group is started again. A bug would otherwise be retried for ever.
MAX_FAILURES = 3


def run_training(
    context: Context, make_task: Callable[[Config, Path], Task], weight_decay: float, layout: Layout | None = None
) -> Result:
    """Train a task on Ray Train workers; evaluations and the last row become the stage's metrics."""
    config, folder = context.config, context.folder
    on_gpu = ray.cluster_resources().get("GPU", 0) > 0
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_dir": str(context.run_dir),
            "folder": str(folder),
            "make_task": make_task,
            "weight_decay": weight_decay,
            "layout": (layout or Layout()).model_dump(),
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(num_workers=config.pretrain.workers, use_gpu=on_gpu),
        # A name of its own for each run: Ray Train silently resumes a run whose name it has seen.
        run_config=RunConfig(
            name=f"{context.run_dir.name}-{folder.name}-{time.time_ns()}",
            storage_path=str(folder / "ray_train"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
        ),
    )
    with _ShownProgress(folder):
        trainer.fit()
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = [
        folder / "model" / "model.safetensors",
        folder / "model" / "shape.json",
        folder / "metrics.jsonl",
        folder / "evaluations.jsonl",
    ]
    summary = {k: rows[-1][k] for k in ("step", "loss", "tokens", "tokens_per_second")}
    return Result(files, {"summary": summary, "evaluations": evaluations})


def _train_worker(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = Config.model_validate(settings["config"])
    folder, run_dir = Path(settings["folder"]), Path(settings["run_dir"])
    task = settings["make_task"](config, run_dir)
    c = config.pretrain
    log = _Log(folder, task, dist.get_rank())
    train(
        task,
        LoopSettings(
            c.precision,
            c.betas,
            c.eps,
            settings["weight_decay"],
            c.clip_norm,
            storage_of(c, run_dir, folder),
            Layout.model_validate(settings["layout"]),
        ),
        folder,
        log,
    )


class _Log:
    """Rank 0 writes `metrics.jsonl` and `evaluations.jsonl`; every rank reports to Ray Train equally often."""

    def __init__(self, folder: Path, task: Task, rank: int) -> None:
        self.folder, self.task, self.rank = folder, task, rank
        self.start: int | None = None
        self.tokens, self.time = -1, time.monotonic()

    def _begin(self) -> None:
        """At the first row: only then is it known which checkpoint was whole."""
        start = self.start = commit.newest_step(self.folder / "checkpoints")
        if self.rank == 0:  # what a crashed attempt logged past its last checkpoint will be logged again
            self.folder.mkdir(parents=True, exist_ok=True)
            _keep(self.folder / "metrics.jsonl", lambda row: row["step"] <= start)
            _keep(self.folder / "evaluations.jsonl", lambda row: row["step"] < start)

    def __call__(self, row: dict[str, Any]) -> None:
        if self.start is None:
            self._begin()
        figures = {k: v for k, v in row.items() if isinstance(v, (int, float))}
        ray.train.report(figures)
        if self.rank:
            return
        if "evaluations" in row:
            for evaluation in row["evaluations"]:
                self._append("evaluations.jsonl", {"step": row["step"], **evaluation})
            self.time = time.monotonic()
            return
        now = time.monotonic()
        row["tokens_per_second"] = (row["tokens"] - self.tokens) / (now - self.time) if self.tokens >= 0 else 0.0
        if self.tokens < 0:
            row["tokens_per_second"] = row["tokens"] / (now - self.time) if self.start == 0 else 0.0
        self.tokens, self.time = row["tokens"], now
        phase = getattr(self.task, "phase_of", None)
        if phase is not None:
            number, _ = phase(row["step"] - 1)
            row["phase"] = self.task.phases[number].name  # type: ignore[attr-defined]
        self._append("metrics.jsonl", row | {"steps": self.task.steps})
        stage = {"stage": self.folder.name}
        metrics.gauge(*metrics.TRAIN_LOSS).set(row["loss"], stage)
        metrics.gauge(*metrics.LEARNING_RATE).set(row["lr"], stage)
        metrics.gauge(*metrics.TOKENS_PER_SECOND).set(row["tokens_per_second"], stage)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


class _ShownProgress:
    """Shows on the driver's stderr what rank 0 logs: a worker's own output does not reach the person who waits."""

    def __init__(self, folder: Path, every_s: float = 2.0) -> None:
        self.folder, self.every_s = folder, every_s
        self.start = commit.newest_step(folder / "checkpoints")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        progress: Progress | None = None
        shown = 0
        while True:
            ended = self._stop.wait(self.every_s)
            rows = read_journal(self.folder / "metrics.jsonl")
            if rows and rows[-1]["step"] != shown:
                last = rows[-1]
                progress = progress or Progress(self.folder.name, last["steps"], done=self.start)
                shown = last["step"]
                progress.update(shown, loss=last["loss"], tokens_per_second=last["tokens_per_second"])
            if ended:
                return


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
