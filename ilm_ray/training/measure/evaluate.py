"""Figures over micro-batches that all replicas share out among them."""

from collections.abc import Callable
from typing import Any

import torch

from ilm_ray.training.parallel.parallelize import ParallelModel
from ilm_ray.training.parallel.sharding import summed


class Evaluate:
    """Sum a per-micro-batch function over all replicas; every one makes the same number of forwards."""

    def __init__(self, model: ParallelModel) -> None:
        self.device, self.replicas = model.device, model.meshes.group("dp")
        self.rank, self.ranks = model.meshes.rank("dp"), model.meshes.reading["dp"].size()
        self.active = model.active

    def __call__(self, model: Any, micros: list[Any], figures: Callable[[Any, Any], list[float]]) -> list[float]:
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
