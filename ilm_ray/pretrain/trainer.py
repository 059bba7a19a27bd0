"""Ray Train around the training loop: workers, process group, restart after a fault with its diagnosis, metrics."""

import json
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from ilm_ray.checkpoints import commit
from ilm_ray.checkpoints.settings import storage_of
from ilm_ray.config import Config
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError
from ilm_ray.observe import metrics
from ilm_ray.observe.journal import Journal, read_journal
from ilm_ray.observe.progress import Progress
from ilm_ray.parallel.devices import known_device
from ilm_ray.parallel.group import keep_ranks
from ilm_ray.parallel.layout import Layout
from ilm_ray.pretrain.attempts import Attempts, failed, finished, lost, started
from ilm_ray.pretrain.diagnosis import IDLE, Diagnosis, write_diagnosis
from ilm_ray.pretrain.layouts import Stretch, Stretches
from ilm_ray.pretrain.loop import HasPhases, LoopSettings, SkipsData, Task, train
from ilm_ray.pretrain.opinion import second_opinion
from ilm_ray.pretrain.watch import Watch

# Our own rule ends a hopeless run (`Attempts.hopeless`); this one those whose workers never come to our code.
MAX_FAILURES = 100
GRACE_S = 120.0  # by which a rank that waits for a hung one outlives it: the hung one says more of why
ELASTIC_EVERY_S = 30.0  # how often a smaller worker group looks whether the cluster has room for more


class TrainingFailed(RuntimeError):
    """Training ended before its last step; the message is its diagnosis."""


def run_training(context: Context, make_task: Callable[[Config, Path], Task], weight_decay: float) -> Result:
    """Train a task on Ray Train workers; evaluations and the last row become the stage's metrics.

    A worker that dies, hangs or fails is replaced, and training goes on from the last checkpoint. Raises TrainingFailed
    with the diagnosis where that does not help, UserError where the input is at fault.
    """
    config, folder = context.config, context.folder
    pretrain, on_gpu = config.pretrain, ray.cluster_resources().get("GPU", 0) > 0
    attempts = Attempts(folder / "attempts")
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_dir": str(context.run_dir),
            "folder": str(folder),
            "make_task": make_task,
            "weight_decay": weight_decay,
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=int(pretrain.hang_s + GRACE_S)),
        scaling_config=ScalingConfig(
            num_workers=(pretrain.min_workers, pretrain.workers) if pretrain.min_workers else pretrain.workers,
            use_gpu=on_gpu,
            elastic_resize_monitor_interval_s=ELASTIC_EVERY_S,
        ),
        # A name of its own for each run: Ray Train silently resumes a run whose name it has seen.
        run_config=RunConfig(
            name=f"{context.run_dir.name}-{folder.name}-{time.time_ns()}",
            storage_path=str(folder / "ray_train"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=3),
            callbacks=[_KeepsExceptions(attempts)],
        ),
    )
    ask = pretrain.opinion
    opinion = None if ask is None else partial(second_opinion, ask.url, ask.model)
    with _Follower(folder, attempts, context.journal, opinion) as follower:
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(f"Ray Train gave up: {error}; see {attempts.folder}") from error
        finally:
            follower.close()
    last = attempts.all()[-1]
    if not finished(last):
        why = _rows(attempts.folder / "diagnoses.jsonl")[-1]
        kind = UserError if why["category"] == "bad_input" else TrainingFailed
        raise kind(f"{why['line']} Evidence: {last}")
    rows = _rows(folder / "metrics.jsonl")
    files = [folder / "model" / name for name in ("model.safetensors", "shape.json")]
    files += [folder / name for name in ("metrics.jsonl", "evaluations.jsonl")]
    summary = {k: rows[-1][k] for k in ("step", "loss", "tokens", "tokens_per_second")}
    faults = _rows(attempts.folder / "diagnoses.jsonl")
    return Result(
        files,
        {
            "summary": summary,
            "evaluations": _rows(folder / "evaluations.jsonl"),
            "incidents": _rows(folder / "incidents.jsonl"),
            "faults": [{k: row[k] for k in ("attempt", "category", "step", "line")} for row in faults],
        },
    )


def _train_worker(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = Config.model_validate(settings["config"])
    folder, run_dir, rank = Path(settings["folder"]), Path(settings["run_dir"]), dist.get_rank()
    attempt = _begin(Attempts(folder / "attempts"), commit.newest_step(folder / "checkpoints"))
    if attempt is None:
        return
    with Watch(attempt, rank, config.pretrain.hang_s) as watch:
        try:
            task = settings["make_task"](config, run_dir)
            _train_in_stretches(task, config, settings["weight_decay"], run_dir, folder, watch)
        except BaseException as error:
            watch.failed(error, traceback.format_exc())
            raise
    if rank == 0:
        (attempt / "done").touch()


def _train_in_stretches(
    task: Task, config: Config, weight_decay: float, run_dir: Path, folder: Path, watch: Watch
) -> None:
    """Each stretch of `task` in its layout, on those of the workers that it has a place for."""
    c, rank, ranks = config.pretrain, dist.get_rank(), dist.get_world_size()
    log = _Log(folder, task, rank)
    plan = Stretches(ranks, (Stretch(task.steps, Layout(), 0),), "")
    if isinstance(task, HasPhases):
        plan = task.lay_out(ranks, known_device(torch.cuda.get_device_name() if torch.cuda.is_available() else None))
    if rank == 0 and plan.why:
        write_text_atomic(watch.folder / "layout.txt", plan.why)
    if not keep_ranks(plan.used, timeout_s=c.hang_s + GRACE_S):
        watch.at(0, IDLE)
        return
    spike = c.spike if isinstance(task, SkipsData) else None
    settings = LoopSettings(
        c.precision, c.betas, c.eps, weight_decay, c.clip_norm, storage_of(c, run_dir, folder), spike=spike
    )
    done = commit.newest_step(folder / "checkpoints")
    for number, stretch in enumerate(plan.all):
        following = plan.all[number + 1] if number + 1 < len(plan.all) else None
        if following is not None and (following.layout == stretch.layout or stretch.until <= done):
            continue  # the next call trains on to its own end
        train(task, replace(settings, layout=stretch.layout), folder, log, watch, stretch.until)


def _begin(attempts: Attempts, step: int) -> Path | None:
    """The folder of this attempt, the same on every rank; None where another would be in vain."""
    number = torch.zeros(1, dtype=torch.int64)
    if dist.get_rank() == 0 and not attempts.hopeless(step):
        number += int(attempts.begin(step, dist.get_world_size()).name.split("-")[1]) + 1
    if torch.cuda.is_available():
        number = number.cuda()
    dist.broadcast(number, 0)
    return attempts.folder / f"attempt-{int(number.item()) - 1:04d}" if number else None


class _KeepsExceptions(UserCallback):
    """Runs in Ray Train's controller: what it knows of a dead worker is written beside the ranks' own traces."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        begun = self.attempts.all()
        if begun and not (begun[-1] / "controller.json").exists():
            said = {str(rank): f"{type(e).__name__}: {e}"[-2000:] for rank, e in worker_exceptions.items()}
            write_text_atomic(begun[-1] / "controller.json", json.dumps(said))


class _Log:
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


class _Follower:
    """In the driver: shows progress, because a worker's own output does not reach the person who waits, and says of
    every attempt that ended too early what ended it."""

    def __init__(
        self,
        folder: Path,
        attempts: Attempts,
        journal: Journal,
        opinion: Callable[[Diagnosis], str] | None,
        every_s: float = 2.0,
    ) -> None:
        self.folder, self.attempts, self.journal, self.opinion = folder, attempts, journal, opinion
        self.every_s, self.shown, self.incidents = every_s, 0, 0
        self.laid_out = len(attempts.all())
        self.start = commit.newest_step(folder / "checkpoints")
        self.progress: Progress | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        (folder / "incidents.jsonl").touch()

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop following, and diagnose the last attempt if it failed."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._look()
        self._diagnose(self.attempts.all())

    def _follow(self) -> None:
        while not self._stop.wait(self.every_s):
            self._look()
            self._diagnose(self.attempts.all()[:-1])

    def _look(self) -> None:
        rows = read_journal(self.folder / "metrics.jsonl")
        if rows and rows[-1]["step"] != self.shown:
            last = rows[-1]
            self.progress = self.progress or Progress(self.folder.name, last["steps"], done=self.start)
            self.shown = last["step"]
            self.progress.update(self.shown, loss=last["loss"], tokens_per_second=last["tokens_per_second"])
        incidents = read_journal(self.folder / "incidents.jsonl")
        for row in incidents[self.incidents :]:
            self.journal.event("incident", **{k: row[k] for k in ("step", "incident", "why", "action")})
        self.incidents = len(incidents)
        for attempt in self.attempts.all()[self.laid_out :]:
            if (attempt / "layout.txt").exists():
                self.journal.event("layout", why=(attempt / "layout.txt").read_text(encoding="utf-8"))
                self.laid_out = int(attempt.name.split("-")[1]) + 1

    def _diagnose(self, over: list[Path]) -> None:
        known = {row["attempt"] for row in _rows(self.attempts.folder / "diagnoses.jsonl")}
        following = dict(zip(self.attempts.all(), self.attempts.all()[1:], strict=False))
        for number, attempt in enumerate(over):
            if number in known or finished(attempt):
                continue
            after = following.get(attempt)
            cost = {} if after is None else lost(attempt, after)
            if failed(attempt) or after is None:
                row = write_diagnosis(attempt, self.opinion)
                said = {"second_opinion": row["second_opinion"]} if "second_opinion" in row else {}
                self.journal.event("recover" if after else "fail", why=row["line"], **cost, **said)
            elif started(after)["workers"] != started(attempt)["workers"]:
                self.journal.event("resize", workers=started(after)["workers"], **cost)


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


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_journal(path)
