"""Ray Train around the training loop: workers, process group, restart after a fault with its diagnosis, metrics."""

import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config import Config
from ilm_ray.model.origin import model_files
from ilm_ray.run.journal import read_journal
from ilm_ray.run.stage import Context, Result
from ilm_ray.run.stopping import Stopped, stop_after_checkpoint
from ilm_ray.training.beside import checkpoint_figures, device_beside, hold, to_measure
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.settings import storage_of
from ilm_ray.training.environment import gpu_environment
from ilm_ray.training.faults.attempts import Attempts, finished, stopped
from ilm_ray.training.faults.diagnosis import IDLE
from ilm_ray.training.faults.follower import Follower
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.logs import TrainingLog
from ilm_ray.training.loop import LoopSettings, NodeLeaves, train
from ilm_ray.training.parallel.group import keep_ranks
from ilm_ray.training.plan.here import agreed_device
from ilm_ray.training.plan.stretches import device_to_plan_for
from ilm_ray.training.task import Task

# Our own rule ends a hopeless run (`Attempts.hopeless`); this one those whose workers never come to our code.
MAX_FAILURES = 100
GRACE_S = 120.0  # a rank that waits for a hung one outlives it by this: the stacks of the hung one tell more
ELASTIC_EVERY_S = 30.0  # how often a smaller worker group looks whether the cluster has room for more


class TrainingFailed(RuntimeError):
    """Training ended before its last step; the message is its diagnosis."""


class _PoliteTrainer(TorchTrainer):
    """Leaves Ctrl-C to `stop_after_checkpoint`: Ray Train would abort the run without a checkpoint."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def run_training(
    context: Context, make_task: Callable[[Config, Path], Task], weight_decay: float, measure_beside: bool = False
) -> Result:
    """Train a task on Ray Train workers; evaluations and the last row become the stage's metrics.

    With `measure_beside` held-out bits per byte of every n-th checkpoint (`pretrain.evaluate_every`) go to
    `beside.jsonl`.
    A worker that dies, hangs or fails is replaced, and training goes on from the last checkpoint. Raises TrainingFailed
    with the diagnosis where that does not help, UserError where the input is at fault, Stopped after Ctrl-C or SIGTERM.
    """
    config, folder = context.config, context.folder
    training, on_gpu = config.training, ray.cluster_resources().get("GPU", 0) > 0
    attempts = Attempts(folder / "attempts")
    trainer = _PoliteTrainer(
        _train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "run_dir": str(context.run_dir),
            "folder": str(folder),
            "make_task": make_task,
            "weight_decay": weight_decay,
            "earlier_attempts": len(attempts.all()),
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=int(training.hang_s + GRACE_S)),
        scaling_config=ScalingConfig(
            num_workers=(training.min_workers, training.workers) if training.min_workers else training.workers,
            use_gpu=on_gpu,
            elastic_resize_monitor_interval_s=ELASTIC_EVERY_S,
        ),
        # A name of its own for each run: Ray Train silently resumes a run whose name it has seen.
        run_config=RunConfig(
            name=f"{plain_name(context.run_dir.name)}-{folder.name}-{time.time_ns()}",
            storage_path=str(folder / "ray_train"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=3),
            callbacks=[_KeepsExceptions(attempts)],
            worker_runtime_env={"env_vars": gpu_environment(attempts.folder, os.environ)} if on_gpu else None,
        ),
    )
    beside = _Beside(config, context.run_dir, folder) if measure_beside and config.pretrain.evaluate_every else None
    also = beside.look if beside else _nothing
    with (
        stop_after_checkpoint(folder),
        Follower(folder, attempts, context.journal, also, _lost_nodes) as follower,
    ):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(f"Ray Train gave up: {error}; see {attempts.folder}") from error
        finally:
            follower.close()
            if beside is not None:
                beside.finish()
    last = attempts.all()[-1]
    if stopped(last):
        raise Stopped(f"{folder.name} was stopped with a checkpoint; the same command goes on from there")
    if not finished(last):
        why = read_journal(attempts.folder / "diagnoses.jsonl")[-1]
        kind = UserError if why["category"] == "bad_input" else TrainingFailed
        raise kind(f"{why['line']} Evidence: {last}")
    rows = read_journal(folder / "metrics.jsonl")
    files = model_files(folder / "model") + [folder / name for name in ("metrics.jsonl", "evaluations.jsonl")]
    summary = {k: rows[-1][k] for k in ("step", "loss", "tokens", "tokens_per_second")}
    faults = read_journal(attempts.folder / "diagnoses.jsonl")
    return Result(
        files,
        {
            "summary": summary,
            "evaluations": read_journal(folder / "evaluations.jsonl"),
            "incidents": read_journal(folder / "incidents.jsonl"),
            "faults": [{k: row[k] for k in ("attempt", "category", "step", "line")} for row in faults],
        },
    )


def _train_worker(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = Config.model_validate(settings["config"])
    folder, run_dir, rank = Path(settings["folder"]), Path(settings["run_dir"]), dist.get_rank()
    attempts = Attempts(folder / "attempts", settings["earlier_attempts"])
    attempt = _begin(attempts, commit.newest_step(folder / "checkpoints"))
    if attempt is None:
        return
    with Watch(attempt, rank, config.training.hang_s) as watch:
        try:
            task = settings["make_task"](config, run_dir)
            _train_in_stretches(task, config, settings["weight_decay"], run_dir, folder, watch)
        except Stopped:  # no failure: Ray Train must not start the workers anew
            if rank == 0:
                (attempt / "stopped").touch()
            return
        except NodeLeaves:  # Ray Train starts the workers anew, and Ray places nothing on a node that leaves
            if rank == 0:
                (attempt / "left").touch()
            raise
        except BaseException as error:
            watch.failed(error, traceback.format_exc())
            raise
    if rank == 0:
        (attempt / "done").touch()


def _node_leaves() -> bool:
    """Whether Ray is draining the node of any worker: a spot notice, SIGTERM to a node's `ray start`, `ray drain-node`.

    Ray Train tells every worker's process. Its public `get_preemption_info` is a barrier of all workers at each call.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def _train_in_stretches(
    task: Task, config: Config, weight_decay: float, run_dir: Path, folder: Path, watch: Watch
) -> None:
    """Each stretch of `task` in its layout, on those of the workers that it has a place for."""
    c, rank, ranks = config.training, dist.get_rank(), dist.get_world_size()
    log = TrainingLog(folder, task, rank)
    device = agreed_device(ray.train.get_context().get_local_world_size())
    plan = task.lay_out(ranks, device if c.calibration is None else device_to_plan_for(c.calibration, None))
    if rank == 0 and plan.why:
        write_text_atomic(watch.folder / "layout.txt", plan.why)
    if not keep_ranks(plan.used, timeout_s=c.hang_s + GRACE_S):
        watch.at(0, IDLE)
        return
    spike = None if task.skipped is None else config.pretrain.spike
    settings = LoopSettings(
        c.precision, c.betas, c.eps, weight_decay, c.clip_norm, storage_of(c, run_dir, folder),
        optimizer=c.optimizer, fp8=c.fp8, spike=spike, node_leaves=_node_leaves,
    )  # fmt: skip
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
    """Runs in Ray Train's controller: writes its errors of dead workers beside the ranks' own traces."""

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        begun = self.attempts.all()
        if begun and not (begun[-1] / "controller.json").exists():
            messages = {str(rank): _failure_message(e) for rank, e in worker_exceptions.items()}
            write_text_atomic(begun[-1] / "controller.json", json.dumps(messages))


class _Beside:
    """In the driver: hands checkpoints to Ray tasks that measure them while training goes on and does not wait."""

    def __init__(self, config: Config, run_dir: Path, folder: Path) -> None:
        self.config, self.run_dir, self.folder = config, run_dir, folder
        self.every = config.pretrain.evaluate_every or 1
        self.unit = self.every * config.pretrain.checkpoint_every
        # Checkpoints that an earlier driver handed over are measured again: their tasks ended with it.
        self.known = {row["step"] for row in read_journal(folder / "beside.jsonl")}
        self.running: dict[Any, Path] = {}
        self.gpus, self.deadline_s = int(ray.cluster_resources().get("GPU", 0)), 0.0

    def look(self) -> None:
        """Hand over new checkpoints, collect finished figures."""
        for checkpoint in commit.committed(self.folder / "checkpoints"):
            step = commit.step_of(checkpoint)
            if step in self.known or step % self.unit:
                continue
            self.known.add(step)
            try:
                held = hold(checkpoint, self.folder / "measured")
            except FileNotFoundError:  # deleted meanwhile: training makes them faster than this looks
                self._append({"step": step, "error": "the checkpoint was gone before it could be measured"})
                continue
            device, seconds = device_beside(self.config, *to_measure(self.run_dir, held), self.gpus)
            if device is None:
                shutil.rmtree(held, ignore_errors=True)
                why = f"a core would take {seconds / 3600:.1f} hours; a GPU beyond training.workers would do it"
                self._append({"step": step, "error": f"not measured: {why}"})
                continue
            self.deadline_s = seconds
            measure = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_retries=1)(checkpoint_figures)
            self.running[measure.remote(self.config, self.run_dir, held, device)] = held
        self._take(0.0)

    def finish(self) -> None:
        """Wait for the tasks under way as long as their size allows, then cancel them."""
        deadline_s = len(self.running) * self.deadline_s
        deadline = time.monotonic() + deadline_s
        while self.running and time.monotonic() < deadline:
            self._take(1.0)
        for task, held in self.running.items():
            ray.cancel(task, force=True)
            self._append(
                {"step": commit.step_of(held), "error": f"not measured within {deadline_s:.0f} s after the end"}
            )
        shutil.rmtree(self.folder / "measured", ignore_errors=True)

    def _take(self, timeout_s: float) -> None:
        if not self.running:
            return
        done, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=timeout_s)
        for task in done:
            held = self.running.pop(task)
            try:
                self._append(ray.get(task))
            except ray.exceptions.RayError as error:
                message = str(error).strip().splitlines()[-1]
                self._append({"step": commit.step_of(held), "error": f"it could not be measured: {message}"})
            shutil.rmtree(held, ignore_errors=True)

    def _append(self, row: dict[str, Any]) -> None:
        with (self.folder / "beside.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def plain_name(name: str) -> str:
    """`name` as Ray Train takes it: letters, digits, - and _ of ASCII; "run" where none is left."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "run"


def _failure_message(error: Exception) -> str:
    """Type, the worker's node where Ray names it, and the end of the message, which is the cause."""
    text = str(error)
    node = re.search(r"node_id='(\w+)'", text)
    return f"{type(error).__name__}{f' on node {node[1]}' if node else ''}: {text[-1500:]}"


def _lost_nodes() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if not node["Alive"]]


def _nothing() -> None: ...
