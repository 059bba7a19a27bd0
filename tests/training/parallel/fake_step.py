"""The real training step at its real size, without its memory, its other ranks or a card.

Tensors are fake (`FakeTensorMode`): they have sizes and no values, so an operator whose result's size depends on values
raises. The process group is torch's fake one: collectives take and give what they would, of no other rank. `device`
is a CPU, and a few functions that ask whether they run on CUDA are told that they do.
"""

import contextlib
import gc
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups
from torch.distributed.pipelining._utils import InferenceMode
from torch.distributed.pipelining.schedules import _PipelineSchedule
from torch.testing._internal.distributed.fake_pg import FakeStore

from ilm_ray.config.layout import Layout
from ilm_ray.model import attention, loss
from ilm_ray.model.internlm2 import CausalLM, Packed
from ilm_ray.model.pointwise import RMSNorm
from ilm_ray.model.shape import Shape
from ilm_ray.training.optimizer import adamw
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.training.parallel.stages import Window
from ilm_ray.training.plan.planner import ranks_of
from ilm_ray.training.plan.step import OptimizerStep
from tests.training.parallel.tracking import Tracker

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


@dataclass
class Traced:
    """Figures of the traced rank's second step, which finds all states there."""

    peak: int  # bytes
    phases: dict[str, int]  # the peak of each part of the step
    carried: dict[str, int]  # operation -> bytes of all its collectives, as `traffic.Collective.size` counts them
    # "gather U" and "reduce U" of a unit's first parameter U, "forward N" and "backward N" of a block, in their order.
    events: list[str] = field(default_factory=list)


class _FusedNorm(torch.autograd.Function):
    """RMSNorm with the memory of CUDA's kernel, which torch has for no other device: input, weight, a number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty_like(x[:, :1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    assert left.shape[1] == right.shape[0]
    total.add_(1)  # CUDA's has no memory of its own either


def _vote(_self: Any, stages: Sequence[Any], *_: Any) -> None:
    """The stages of a pipeline agree that their sizes are known: torch asks a message for its value, ours have none."""
    for stage in stages:
        stage._inference_mode = InferenceMode.STATIC


@contextlib.contextmanager
def _as_on_a_card() -> Iterator[None]:
    """The branches for CUDA: their fused operators have the memory of their results alone."""
    with (
        mock.patch.object(_PipelineSchedule, "_warmup_p2p", _vote),
        mock.patch.object(attention, "_has_kernel", lambda q: q.dtype == torch.bfloat16),
        mock.patch.object(RMSNorm, "forward", lambda self, x: _FusedNorm.apply(x, self.weight)),
        mock.patch.object(loss, "_add_product", _add_product),
    ):
        yield


def _window(step: OptimizerStep, documents: int) -> Window:
    rows = step.context * step.at_once
    with unset_fake_temporarily():  # a batch's borders are known on the CPU
        borders = torch.arange(0, rows + 1, step.context // documents, dtype=torch.int32)
    tokens, positions, labels = (torch.zeros(rows, dtype=torch.long) for _ in range(3))
    return Packed(tokens, positions, borders, step.context // documents), labels


@contextlib.contextmanager
def _fake_group(rank: int, ranks: int) -> Iterator[None]:
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _report(block: nn.Module, number: str, events: list[str]) -> None:
    """Write down when the block's forward and backward begin, after what FSDP2 does before them."""

    def given(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda _gradient: events.append(f"backward {number}"))

    block.register_forward_pre_hook(lambda *_: events.append(f"forward {number}"))
    block.register_forward_hook(given)


@contextlib.contextmanager
def _collectives(events: list[str]) -> Iterator[None]:
    """Write down when FSDP2 begins to gather or to reduce a unit."""

    def reporting(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def reported(parameters: Sequence[Any], *arguments: Any) -> Any:
            events.append(f"{kind} {parameters[0]._param_fqn}")
            return function(parameters, *arguments)

        return reported

    with (
        mock.patch.object(groups, "foreach_all_gather", reporting("gather", groups.foreach_all_gather)),
        mock.patch.object(groups, "foreach_reduce", reporting("reduce", groups.foreach_reduce)),
    ):
        yield


def build(shape: Shape, layout: Layout, step: OptimizerStep, fake: FakeTensorMode) -> ParallelModel:
    """The model as the trainer builds it; its memory, once it is given, is fake. A process group is there."""
    with torch.device("meta"):
        whole = CausalLM(shape, step.loss_chunk)
    with mock.patch.object(nn.Module, "to_empty"):  # meshes are made of real tensors, so this is no place for fake ones
        model = parallelize(whole, layout, CPU, step.precision)
    with fake:
        for part in model.parts:
            part.to_empty(device=CPU)
    return model


def trace(shape: Shape, layout: Layout, step: OptimizerStep, rank: int = 0, documents: int = 1) -> Traced:
    """Trace two steps of rank `rank` of `layout`, whose dp is known. Raises what the step raises."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _fake_group(rank, ranks_of(layout)), _as_on_a_card():
        model = build(shape, layout, step, fake)
        optimizers = [adamw(part.named_parameters(), (0.9, 0.95), 1e-8, 0.1) for part in model.parts]
        events: list[str] = []
        for part in model.parts:
            for number, block in part.model.layers.items():
                _report(block, number, events)
        with _collectives(events), fake, Tracker(smallest=2**16) as tracker:
            for last in (
                False,
                True,
            ):  # in the first, DTensor infers each result's size from a fake tensor of the whole size
                gc.collect()
                tracker.carried.clear()
                tracker.phases.clear()
                events.clear()
                tracker.peak = tracker.live
                for optimizer in optimizers:
                    optimizer.zero_grad()
                windows = [_window(step, documents) for _ in range(step.micros(layout))]
                windows = windows[: len(windows) if last or layout.pp > 1 else 1]
                model.backward_windows(windows, 1e-6)
                tracker.phase("forward and backward")
                for optimizer in optimizers:
                    optimizer.step()
                tracker.phase("optimizer")
    return Traced(max(tracker.phases.values()), tracker.phases, dict(tracker.carried), events)


Case = tuple[Shape, Layout, OptimizerStep]


def trace_apart(cases: Sequence[Case], ranks: Callable[[Layout], Sequence[int]]) -> list[list[Traced]]:
    """`trace` of each case and rank in a process of its own: torch keeps groups and meshes beyond their end."""
    wanted = [
        {"shape": asdict(shape), "layout": layout.model_dump(), "step": asdict(step), "ranks": list(ranks(layout))}
        for shape, layout, step in cases
    ]
    command = [sys.executable, "-m", "tests.training.parallel.fake_step"]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return [[Traced(**row) for row in rows] for rows in json.loads(done.stdout.splitlines()[-1])]


def _main() -> None:
    torch.set_num_threads(1)
    results: list[list[Traced]] = []
    for case in json.load(sys.stdin):
        shape, layout, step = Shape(**case["shape"]), Layout(**case["layout"]), OptimizerStep(**case["step"])
        jobs = [(shape, layout, step, rank) for rank in case["ranks"]]
        with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
            results.append(pool.starmap(trace, jobs, chunksize=1))
    print(json.dumps([[asdict(traced) for traced in ranks] for ranks in results]))


if __name__ == "__main__":
    _main()
