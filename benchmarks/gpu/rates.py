"""Rates of the card itself: matrix products, its memory, the way to its host."""

import functools
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.cases import Case, Figures, Where, rounded

REPEATS = 10


def cases(where: Where) -> list[Case]:
    return [
        Case("matrix product", functools.partial(matrix_product, where)),
        Case("copy on the device", functools.partial(copy, where)),
        Case("copy from the host", functools.partial(upload, where)),
    ]


def matrix_product(where: Where) -> Figures:
    """FLOP/s of square matrices in bf16, filled with random numbers: on zeros a card draws less and clocks higher."""
    size = 64 if where.tiny else 8192
    a, b = (torch.randn(size, size, device=where.device).to(torch.bfloat16) for _ in range(2))
    return {"tflops": rounded(2 * size**3 / _seconds(lambda: torch.mm(a, b), where) / 1e12), "size": size}


def copy(where: Where) -> Figures:
    """Bytes read and written a second."""
    source = torch.ones(2**12 if where.tiny else 2**30, device=where.device)
    target = torch.empty_like(source)
    return {"gb_s": rounded(2 * 4 * len(source) / _seconds(lambda: target.copy_(source), where) / 1e9)}


def upload(where: Where) -> Figures:
    """Bytes a second from pinned memory, and from pageable memory, as `.to(device)` of a batch has it."""
    count = 2**12 if where.tiny else 2**28
    target = torch.empty(count, device=where.device)
    pageable = torch.ones(count)
    figures = {"pageable_gb_s": rounded(4 * count / _seconds(lambda: target.copy_(pageable), where) / 1e9)}
    if where.on_gpu:
        pinned = pageable.pin_memory()
        figures["pinned_gb_s"] = rounded(4 * count / _seconds(lambda: target.copy_(pinned), where) / 1e9)
    return figures


def _seconds(work: Callable[[], object], where: Where) -> float:
    """Mean of several calls, after two that warm up."""
    started = 0.0
    for number in range(2 + REPEATS):
        if number == 2:
            _wait(where)
            started = time.perf_counter()
        work()
    _wait(where)
    return (time.perf_counter() - started) / REPEATS


def _wait(where: Where) -> None:
    if where.on_gpu:
        torch.cuda.synchronize()
