"""The device that this process computes on, as the planner needs it; the same on every rank."""

import time
from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.distributed as dist

from ilm_ray.training.plan.cards import kind_of, known_device
from ilm_ray.training.plan.devices import Device

SIDE, REPEATS = 4096, 10  # of the matrices that are multiplied to measure an unknown card: 100 MB in bfloat16


def this_device(ranks_here: int) -> Device:
    """The GPU that this process has set, or the CPU share of one of `ranks_here` ranks on this machine.

    Memory is the device's own. A GPU without a data sheet here multiplies matrices for a moment to tell its peak.
    """
    if not torch.cuda.is_available():
        import psutil

        return known_device(None, psutil.virtual_memory().total // ranks_here)
    gpu = torch.device("cuda", torch.cuda.current_device())
    facts = torch.cuda.get_device_properties(gpu)
    device = known_device(facts.name, facts.total_memory)
    if kind_of(facts.name) is not None:
        return device
    return replace(
        device,
        name=f"{facts.name} (measured)",
        peak_flops=matmul_flops(gpu, torch.bfloat16, SIDE, REPEATS),
        fp32_flops=matmul_flops(gpu, torch.float32, SIDE, REPEATS),
    )


def matmul_flops(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """Floating-point operations a second of products of square matrices, the best of `repeats` after the first."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for number in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def agreed_device(ranks_here: int) -> Device:
    """`this_device` of the weakest rank of the process group; every rank calls it and gets the same."""
    devices: list[Device | None] = [None] * dist.get_world_size()
    dist.all_gather_object(devices, this_device(ranks_here))
    return weakest(device for device in devices if device is not None)


def weakest(devices: Iterable[Device]) -> Device:
    """The slowest device, with the least memory of all."""
    every = list(devices)
    slowest = min(every, key=lambda device: (device.peak_flops, device.memory, device.name))
    return replace(slowest, memory=min(device.memory for device in every))
