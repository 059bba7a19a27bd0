"""Measures the time of training by activity, and the share of the hardware's peak that it reaches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.faults.watch import gpu_memory
from ilm_ray.training.plan.cards import peak_flops
from ilm_ray.training.plan.step import flops_per_token

PARTS = ("data", "checkpoint", "evaluation")  # all activities but computing


class Meter:
    """Seconds between two log rows, by activity: `data`, `checkpoint`, `evaluation`, the rest.

    On a GPU also the most memory of this rank since the last row. Model FLOP/s are those of `flops_per_token`,
    recomputation not counted: `mfu` with the attention of all keys, as torchtitan has it, `mfu_causal` with half of it.
    Shares of the peak only where the device's is known.
    """

    def __init__(self, shape: Shape, ranks: int, device: torch.device) -> None:
        self.shape, self.ranks = shape, ranks
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.last = dict[str, float]()  # seconds of the last time that each part was entered
        self._reset()

    @contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """The time inside the context counts as `part`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.last[part] = time.monotonic() - started
            self.seconds[part] += self.last[part]

    def row(self, tokens: int, context: int) -> dict[str, float]:
        """Figures since the last row, for `tokens` tokens over all ranks in sequences of `context`; starts anew."""
        passed = time.monotonic() - self.started
        training = max(passed - self.seconds["evaluation"], 1e-9)
        speed = tokens / training
        row = {"window_seconds": passed, "tokens_per_second": speed}
        row |= {f"{part}_share": self.seconds[part] / training for part in PARTS if part != "evaluation"}
        if "checkpoint" in self.last:
            row["checkpoint_seconds"] = self.last["checkpoint"]
        for name, causal in (("mfu", False), ("mfu_causal", True)):
            flops = speed * flops_per_token(self.shape, context, causal) / self.ranks
            if self.peak:
                row[name] = flops / self.peak
            elif not causal:
                row["model_flops"] = flops  # a second and rank
        row |= {f"{name}_bytes": size for name, size in gpu_memory().items()}
        self._reset()
        return row

    def _reset(self) -> None:
        self.seconds, self.started = dict.fromkeys(PARTS, 0.0), time.monotonic()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()


def pipeline_bubble(layout: Layout, micros: int) -> float:
    """Share of a step of `micros` micro-batches that a rank of the pipeline waits, by the schedule alone.

    It waits pp - 1 times as long as a micro-batch takes in one of its stages, as in `plan.timing`.
    """
    waits = layout.pp - 1
    return waits / max(layout.virtual_stages * micros + waits, 1)
