"""The training loop of pre-training, SFT and reward modelling. It knows torch.distributed and nothing of Ray."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.checkpoints import commit, states
from ilm_ray.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.model.huggingface import save_internlm2
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.parallel.layout import Layout
from ilm_ray.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.parallel.sharding import clip_gradients, summed
from ilm_ray.pretrain.schedule import adamw

Micro = Any  # one micro-batch of a task: only the task looks inside


@dataclass(frozen=True)
class Losses:
    """Sums over a micro-batch: the loss to go backward, what it is divided by, and figures to log (also sums)."""

    loss: Tensor
    count: float
    figures: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """What is trained. `micro_batches` must give every rank the same number of them: their forwards are collective.

    A rank here is a replica of the model, be it one worker or several; all workers of a replica get the same batches.
    With a pipeline a micro-batch is (packed tokens, labels), and the loss the sum of the tokens' losses.
    """

    steps: int
    checkpoint_every: int
    log_every: int

    def build(self) -> CausalLM | ScalarModel: ...
    def learning_rate(self, step: int) -> float: ...
    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Micro]: ...
    def count(self, micro: Micro) -> float: ...
    def losses(self, model: Any, micro: Micro) -> Losses: ...
    def before_step(self, model: Any, step: int, evaluate: Callable[..., Any]) -> dict[str, Any] | None: ...
    def tokens(self, micro: Micro) -> int: ...


@dataclass(frozen=True)
class LoopSettings:
    precision: str
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    storage: Storage
    layout: Layout = field(default_factory=Layout)


def train(
    task: Task,
    settings: LoopSettings,
    folder: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Train `task` to its end, from the newest committed checkpoint in `folder/checkpoints` if there is one.

    Every rank calls it inside an initialised process group. The final weights go to `folder/model`. `log` receives,
    on every rank, one row every `task.log_every` steps; losses in it are means over all ranks.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    model = parallelize(task.build(), settings.layout, device, settings.precision)
    optimizers = [
        adamw(part.named_parameters(), settings.betas, settings.eps, settings.weight_decay) for part in model.parts
    ]
    rank, ranks, replicas = model.meshes.rank("dp"), model.meshes.reading["dp"].size(), model.meshes.group("dp")
    stored = list(zip(model.parts, optimizers, strict=True))
    checkpoints = Checkpoints(folder / "checkpoints", settings.storage)
    restored = checkpoints.restore(stored)
    step, tokens_seen = restored.step, restored.state.get("tokens", 0)
    evaluate, window = _Evaluate(model), _Window(replicas)
    while step < task.steps:
        note = task.before_step(model, step, evaluate)
        if note:
            log({"step": step, **note})
        learning_rate = task.learning_rate(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad()
        micros = task.micro_batches(step, rank, ranks)
        # Normalise by what all ranks together predict: accumulation and layout then change nothing.
        mine = [sum(task.count(m) for m in micros), float(sum(task.tokens(m) for m in micros))]
        count, tokens = summed(mine, device, replicas)
        for losses in _backward(task, model, micros, ranks / max(count, 1.0)):
            window.add(losses)
        norm = clip_gradients(model.parameters(), settings.clip_norm, settings.layout.pp)
        if norm != norm or norm == float("inf"):
            raise FloatingPointError(f"gradient norm is {norm} at step {step}: the step was not applied")
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        tokens_seen += int(tokens)
        if step % task.log_every == 0 or step == task.steps:
            row = window.means(device)
            log({"step": step, "lr": learning_rate, "grad_norm": norm, "tokens": tokens_seen} | row)
        if step % task.checkpoint_every == 0 or step == task.steps:
            state = {"tokens": tokens_seen, "shape": asdict(model.shape)}
            checkpoints.save(step, stored, state, last=step == task.steps)
    note = task.before_step(model, step, evaluate)
    if note:
        log({"step": step, **note})
    checkpoints.finish()
    _save_final(model, folder)


def _backward(task: Task, model: ParallelModel, micros: list[Micro], scale: float) -> list[Losses]:
    """Add up gradients of scale times the micro-batches' losses, averaged over replicas."""
    if model.pipeline is not None:
        sums = model.backward_windows(micros, scale)
        return [Losses(loss, task.count(micro)) for loss, micro in zip(sums, micros, strict=True)]
    found: list[Losses] = []

    def loss_of(micro: Micro) -> Tensor:
        found.append(task.losses(model, micro))
        return found[-1].loss

    model.backward(micros, loss_of, scale)
    return found


class _Window:
    """Sums between two log rows."""

    def __init__(self, replicas: dist.ProcessGroup) -> None:
        self.replicas = replicas
        self._reset()

    def _reset(self) -> None:
        self.loss, self.count, self.figures, self.started = 0.0, 0.0, dict[str, float](), time.monotonic()

    def add(self, losses: Losses) -> None:
        self.loss += losses.loss.item()
        self.count += losses.count
        for name, value in losses.figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + value

    def means(self, device: torch.device) -> dict[str, float]:
        """Means over the window and all ranks; figures are divided by the same count as the loss."""
        names = sorted(self.figures)
        mine = [self.loss, self.count, *(self.figures[n] for n in names)]
        loss, count, *figures = summed(mine, device, self.replicas)
        seconds = time.monotonic() - self.started
        self._reset()
        count = max(count, 1.0)
        means = {"loss": loss / count, "window_seconds": seconds}
        return means | {n: v / count for n, v in zip(names, figures, strict=True)}


class _Evaluate:
    """Sum a per-micro-batch function over all replicas; every one makes the same number of forwards."""

    def __init__(self, model: ParallelModel) -> None:
        self.device, self.replicas = model.device, model.meshes.group("dp")
        self.rank, self.ranks = model.meshes.rank("dp"), model.meshes.reading["dp"].size()
        self.active = model.active

    def __call__(self, model: Any, micros: list[Micro], figures: Callable[[Any, Micro], list[float]]) -> list[float]:
        rounds = -(-len(micros) // self.ranks)
        total: list[float] = []
        with torch.no_grad(), self.active():
            for i in range(rounds):
                index = i * self.ranks + self.rank
                values = figures(model, micros[min(index, len(micros) - 1)])
                if index >= len(micros):  # a forward made only so that the others' collectives have a partner
                    values = [0.0] * len(values)
                total = [a + b for a, b in zip(total, values, strict=True)] if total else values
        return summed(total, self.device, self.replicas)


def _save_final(model: ParallelModel, folder: Path) -> None:
    """Write the model folder from the last checkpoint, which holds all layers whatever rank had them."""
    if dist.get_rank() == 0:
        with torch.device("meta"):  # no memory and no drawing of weights that are read at once
            whole = (CausalLM if isinstance(model.parts[0], CausalLM) else ScalarModel)(model.shape)
        whole.to_empty(device="cpu")
        states.load_whole(commit.committed(folder / "checkpoints")[-1], whole)
        save_internlm2(whole, folder / "model")
    dist.barrier()
