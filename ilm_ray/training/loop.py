"""The training loop of pre-training, SFT and reward modelling. It knows torch.distributed and nothing of Ray."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.config.training import SpikeConfig
from ilm_ray.run.stopping import ASKED, Stopped
from ilm_ray.training.checkpoints import states
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.training.checkpoints.final import write_final
from ilm_ray.training.environment import collect_after, steady_collection
from ilm_ray.training.faults.guard import BadStep, Guard
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.measure.evaluate import Evaluate
from ilm_ray.training.measure.meter import Meter, pipeline_bubble
from ilm_ray.training.optimizer import Kind, make_optimizer
from ilm_ray.training.parallel.float8 import require_float8, use_float8
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.training.parallel.sharding import summed
from ilm_ray.training.task import Losses, Micro, Task

CPU = torch.device("cpu")


def _never() -> bool:
    return False


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop that no task knows: from `pretrain` and from the stage's section."""

    precision: str
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    storage: Storage
    layout: Layout = field(default_factory=Layout)
    optimizer: Kind = "adamw"
    fp8: bool = False
    spike: SpikeConfig | None = None  # None: a step without a finite gradient ends the training
    node_leaves: Callable[[], bool] = _never  # asked at each step of each rank


class NodeLeaves(RuntimeError):
    """A node of the workers is about to go. A checkpoint is saved: others go on from it and lose no step."""


class Diverged(RuntimeError):
    """Training cannot go on by itself: it would come to the same step again."""


def train(
    task: Task,
    settings: LoopSettings,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
    watch: Watch,
    until: int | None = None,
) -> None:
    """Train `task` to its end, from the newest committed checkpoint in `folder/checkpoints` if there is one.

    Every rank calls it inside an initialised process group. The final weights go to `folder/model`. `log` receives,
    on every rank, one row every `task.log_every` steps; losses in it are means over all ranks. With `until`, a step
    before the end, it stops there with a checkpoint, from which another call goes on, be it in another layout. Raises
    Stopped on every rank, once a checkpoint is saved, where `folder` holds ASKED, and NodeLeaves where
    `settings.node_leaves` is true on one of them.
    """
    with steady_collection():
        _train(task, settings, folder, log, watch, task.steps if until is None else min(until, task.steps))


def _train(
    task: Task, settings: LoopSettings, folder: Path, log: Callable[[dict[str, Any]], None], watch: Watch, end: int
) -> None:
    trainer = _TrainingState(task, settings, folder, log, watch)
    while trainer.step < end:
        trainer.before_step()
        why = trainer.advance()
        if why is not None:
            trainer.leave_out(why)
        elif trainer.asked_to_stop and trainer.step < task.steps:
            trainer.save(last=True)
            trainer.checkpoints.finish()
            raise Stopped(f"stopped at step {trainer.step}, with a checkpoint")
        elif trainer.node_leaves and trainer.step < task.steps:
            trainer.save(last=True)
            trainer.checkpoints.finish()
            raise NodeLeaves(f"a node is about to leave; checkpoint at step {trainer.step}")
        elif trainer.step % task.checkpoint_every == 0 or trainer.step == end:
            trainer.save(last=trainer.step == end)
        collect_after(trainer.step)
    if end == task.steps:
        trainer.before_step()
    watch.at(trainer.step, "checkpoint")
    trainer.checkpoints.finish()
    if end == task.steps:
        write_final(trainer.model, folder, task.about, task.base, lambda: watch.at(end, "writing the model"))


class _TrainingState:
    """A model under training, its optimizers, and the counters that a checkpoint keeps with them."""

    def __init__(
        self, task: Task, settings: LoopSettings, folder: Path, log: Callable[[dict[str, Any]], None], watch: Watch
    ) -> None:
        self.task, self.settings, self.folder, self.log, self.watch = task, settings, folder, log, watch
        watch.at(0, "building the model")
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
        with torch.device("meta"):  # no rank ever holds the whole
            whole = task.build()
        if settings.fp8:
            require_float8(settings.layout, settings.precision, self.device)
            use_float8(whole)
        self.model = parallelize(whole, settings.layout, self.device, settings.precision)
        self.optimizers = [
            make_optimizer(
                settings.optimizer, part.named_parameters(), settings.betas, settings.eps, settings.weight_decay
            )
            for part in self.model.parts
        ]
        meshes = self.model.meshes
        self.rank, self.ranks, self.replicas = meshes.rank("dp"), meshes.reading["dp"].size(), meshes.group("dp")
        self.evaluate, self.rollbacks = Evaluate(self.model), 0
        self.meter = Meter(self.model.shape, dist.get_world_size(), self.device)
        self.asked_to_stop, self.node_leaves = False, False
        self.step, self.tokens, self.guard = 0, 0, Guard(settings.spike) if settings.spike else None
        self.window = _LogWindow()
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.storage)
        if not self._restore():
            for part in self.model.parts:
                task.fill(part)
        log({"step": self.step, "begins": True})

    def before_step(self) -> None:
        """Let the task act between two steps, such as to measure at the border of two phases."""
        self.watch.at(self.step, "evaluation")
        with self.meter.spent("evaluation"):
            note = self.task.before_step(self.model, self.step, self.evaluate)
        if note:
            self.log({"step": self.step, **note})
            if self.guard is not None:
                self.guard.forget()

    def advance(self) -> BadStep | None:
        """Take one step; returns the reason where it was not applied."""
        task, settings = self.task, self.settings
        learning_rate = task.learning_rate(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad()
        self.watch.at(self.step, "reading data")
        with self.meter.spent("data"):
            micros = task.micro_batches(self.step, self.rank, self.ranks)
        self.watch.at(self.step, "forward and backward")
        # Normalise by the predicted tokens of all ranks: accumulation and layout then change nothing.
        mine = [sum(task.count(m) for m in micros), float(sum(task.tokens(m) for m in micros))]
        count, tokens = summed(mine, self.device, self.replicas)
        micro_losses = _backward(task, self.model, micros, self.ranks / max(count, 1.0))
        sums = self._over_all_ranks(micro_losses)
        norm = self.model.clip_gradients(settings.clip_norm)
        verdict = self._look(sums["loss"] / max(count, 1.0), norm)
        if verdict is not None:
            return verdict
        self.watch.at(self.step, "optimizer")
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.tokens += int(tokens)
        self.window.add(sums, count, tokens)
        if self.step % task.log_every == 0 or self.step == task.steps:
            row = {"step": self.step, "lr": learning_rate, "grad_norm": norm, "tokens": self.tokens}
            timing = self.meter.row(int(self.window.tokens), task.context(self.step - 1))
            timing["pipeline_bubble"] = pipeline_bubble(settings.layout, len(micros))
            self.log(row | self.window.means() | timing)
            self.window = _LogWindow()
        return None

    def leave_out(self, why: BadStep) -> None:
        """Skip the bad batch, or go back to the last checkpoint and skip all data read since."""
        task, at = self.task, self.step
        assert task.skipped is not None
        incident = {"step": at, "incident": why.kind, "why": why.why}
        if not why.roll_back:
            task.skip(at, at)
            self.log(incident | {"action": "its batch is left out", "skipped": task.skipped})
            return
        spike = self.settings.spike
        assert spike is not None and self.guard is not None
        self.rollbacks += 1
        if self.rollbacks > spike.rollbacks:
            raise Diverged(f"step {at}: {why.why}; {spike.rollbacks} times older weights did not help")
        known = list(task.skipped)
        if not self._restore():
            raise Diverged(f"step {at}: {why.why}; there is no checkpoint yet to go back to")
        task.skipped = known
        task.skip(self.step, at)
        self.guard.forget()
        action = f"back to step {self.step}, all data read since then is left out"
        self.log(incident | {"action": action, "back_to": self.step, "skipped": task.skipped})

    def save(self, last: bool) -> None:
        """Start a checkpoint of this step; with `last` wait until it is complete."""
        self.watch.at(self.step, "checkpoint")
        state: dict[str, Any] = {"tokens": self.tokens, "shape": asdict(self.model.shape)}
        if self.guard is not None:
            state |= {"usual": self.guard.state(), "skipped": self.task.skipped}
        with self.meter.spent("checkpoint"):
            self.checkpoints.save(self.step, self._stored, state, last)

    @property
    def _stored(self) -> list[states.Part]:
        return list(zip(self.model.parts, self.optimizers, strict=True))

    def _restore(self) -> bool:
        """Go on from the newest checkpoint; False if there is none."""
        self.watch.at(self.step, "loading a checkpoint")
        restored = self.checkpoints.restore(self._stored)
        if not restored.step:
            return False
        self.step, self.tokens, self.window = restored.step, restored.state["tokens"], _LogWindow()
        if self.settings.spike is not None:
            self.guard = Guard(self.settings.spike, restored.state.get("usual"))
            self.task.skipped = restored.state.get("skipped", [])
        return True

    def _look(self, loss: float, norm: float) -> BadStep | None:
        if self.guard is not None:
            return self.guard.look(loss, norm)
        if not math.isfinite(norm):
            raise Diverged(f"gradient norm is {norm} at step {self.step}: the step was not applied")
        return None

    def _over_all_ranks(self, micro_losses: Sequence[Losses]) -> dict[str, float]:
        """Sums of the step's loss and figures over all replicas: one number on all ranks, bit for bit."""
        names = sorted({name for losses in micro_losses for name in losses.figures})
        mine = [sum(losses.loss.item() for losses in micro_losses)]
        mine += [sum(losses.figures[name] for losses in micro_losses) for name in names]
        # Rank 0 looks for the file; all ranks learn of it from a sum that they compute anyway.
        asked_here = float(dist.get_rank() == 0 and (self.folder / ASKED).exists())
        leaves_here = float(self.settings.node_leaves())
        copies = self.settings.layout.replica_ranks  # each replica's sums are on all of its ranks
        *totals, asked_to_stop, leaves = summed([*mine, asked_here, leaves_here], self.device)
        self.asked_to_stop, self.node_leaves = asked_to_stop > 0, leaves > 0
        totals = [total / copies for total in totals]
        return dict(zip(["loss", *names], totals, strict=True))


def _backward(task: Task, model: ParallelModel, micros: list[Micro], scale: float) -> list[Losses]:
    """Add up gradients of scale times the micro-batches' losses, averaged over replicas."""
    if model.pipeline is not None:
        sums = model.backward_windows(micros, scale)
        return [Losses(loss, task.count(micro)) for loss, micro in zip(sums, micros, strict=True)]
    micro_losses: list[Losses] = []

    def loss_of(micro: Micro) -> Tensor:
        micro_losses.append(task.losses(model, micro))
        return micro_losses[-1].loss

    model.backward(micros, loss_of, scale)
    return micro_losses


class _LogWindow:
    """Sums over the steps between two log rows."""

    def __init__(self) -> None:
        self.sums, self.count, self.tokens = dict[str, float](), 0.0, 0.0

    def add(self, sums: Mapping[str, float], count: float, tokens: float) -> None:
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.count += count
        self.tokens += tokens

    def means(self) -> dict[str, float]:
        """All sums are divided by the same count."""
        return {name: value / max(self.count, 1.0) for name, value in self.sums.items()}
