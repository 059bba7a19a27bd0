"""A look inside one step, on demand: norms layer by layer, and the share of time that collectives take."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ilm_ray.training.parallel.sharding import local_share, summed

ASK = "look"  # a file of this name in the stage's folder asks for a look at the next logged step


def look_requested(folder: Path, device: torch.device) -> bool:
    """True where the file ASK was there; it is removed. Every rank calls it and gets the same answer."""
    mine = 0.0
    if dist.get_rank() == 0 and (folder / ASK).exists():
        (folder / ASK).unlink()
        mine = 1.0
    return summed([mine], device)[0] > 0


def measured(step: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float]]:
    """Run `step`; returns its result, its seconds on this rank and the share of them with a collective under way.

    Collectives that overlap computation count too: the share is not the time lost to them.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    started = time.monotonic()
    with profile(activities=activities) as profiler:
        result = step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds = time.monotonic() - started
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or []
        if event.name.startswith(("gloo:", "nccl"))
    ]
    return result, {"seconds": seconds, "communication_share": _covered(spans) / 1e6 / seconds}


def layer_norms(
    named: Iterable[tuple[str, nn.Parameter]], stages: int, twice: nn.Parameter | None = None
) -> dict[str, dict[str, float]]:
    """Layer -> norm of its weights and of their gradients, over all ranks. Every rank calls it.

    stages: pipeline ranks, which hold different layers; twice: the parameter that two of them hold.
    """
    holders = dist.get_world_size() // stages
    mine: dict[str, list[float]] = {}
    for name, parameter in named:
        squares = mine.setdefault(_layer(name), [0.0, 0.0])
        for i, tensor in enumerate((parameter.detach(), parameter.grad)):
            if tensor is not None:
                local, shares = local_share(tensor)
                squares[i] += float(local.double().square().sum()) / ((1 + (parameter is twice)) * holders // shares)
    everybody: list[dict[str, list[float]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybody, mine)
    layers = sorted({layer for rank_squares in everybody for layer in rank_squares}, key=_place)
    sums = {
        layer: [sum(rank_squares.get(layer, [0.0, 0.0])[i] for rank_squares in everybody) for i in (0, 1)]
        for layer in layers
    }
    return {layer: {"weight": weight**0.5, "gradient": gradient**0.5} for layer, (weight, gradient) in sums.items()}


def _layer(name: str) -> str:
    """model.layers.7.attention.wo.weight -> layers.7"""
    parts = name.removeprefix("model.").split(".")
    return ".".join(parts[: 2 if parts[0] == "layers" else 1])


def _place(layer: str) -> tuple[int, int, str]:
    kind, _, number = layer.partition(".")
    return ({"tok_embeddings": 0, "layers": 1, "norm": 2}.get(kind, 3), int(number or 0), layer)


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
