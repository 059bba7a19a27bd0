"""Ranks as processes of this machine, for short runs that need no Ray."""

import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., None], ranks: int, *arguments: Any, deadline_s: float) -> None:
    """`function(*arguments)` in `ranks` new processes inside a process group: NCCL with a GPU each, or gloo.

    `function` must be importable. On a CPU each computes with one thread, as Ray's workers do. Raises the first rank's
    exception, or TimeoutError after `deadline_s` seconds; no process is left.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder).resolve()}/store"
        started = mp.spawn(_rank, (function, ranks, store, deadline_s, arguments), nprocs=ranks, join=False)
        assert started is not None
        deadline = time.monotonic() + deadline_s
        try:
            while not started.join(timeout=1.0):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{ranks} processes did not end within {deadline_s:.0f} s")
        finally:
            for process in started.processes:
                process.kill()
                process.join()


def _rank(
    rank: int, function: Callable[..., None], ranks: int, store: str, deadline_s: float, arguments: tuple[Any, ...]
) -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend = "nccl"
    else:
        torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=deadline_s)
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=ranks, timeout=patience)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
