"""Heartbeats: each rank writes its activity to disk every second, and exits after `deadline_s` without progress."""

import faulthandler
import json
import os
import resource
import shutil
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ilm_ray.base.files import write_text_atomic

HUNG = 86  # exit code of a process that ended itself because it made no progress
EVERY_S = 1.0


def gpu_memory() -> dict[str, int]:
    """{"gpu_peak": bytes of tensors, "gpu_reserved": with the allocator's unused ones}, the most since the last reset.

    Empty in a process that has not used its GPU, which asking must not start.
    """
    if not torch.cuda.is_initialized():
        return {}
    return {"gpu_peak": torch.cuda.max_memory_allocated(), "gpu_reserved": torch.cuda.max_memory_reserved()}


class Watch:
    """Writes `rank-<rank>.json` into `folder` every second: step, activity and its seconds, host, process, memory,
    of the GPU too where there is one.

    A rank whose activity lasts longer than `deadline_s` writes its threads' stacks to `rank-<rank>.stack.txt` and exits
    two heartbeats later. The other ranks wait for it in a collective and reach their deadline at about the same time.
    The first exit ends the whole group; the two heartbeats give every rank the time to write its stacks before that.
    """

    def __init__(self, folder: Path, rank: int, deadline_s: float) -> None:
        self.folder, self.rank, self.deadline_s = folder, rank, deadline_s
        folder.mkdir(parents=True, exist_ok=True)
        self._now: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def at(self, step: int, doing: str) -> None:
        """Record that the rank begins `doing` in step `step`."""
        self._now = (step, doing, time.monotonic())

    def failed(self, error: BaseException, trace: str) -> None:
        """Write the error that ends this rank to `rank-<rank>.error.json`."""
        step, doing, _ = self._now
        row = {
            "rank": self.rank,
            "step": step,
            "doing": doing,
            "time": time.time(),
            "type": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "errno": getattr(error, "errno", None),
            "message": str(error)[:2000],
            "trace": trace[-4000:],
        }
        write_text_atomic(self.folder / f"rank-{self.rank}.error.json", json.dumps(row))

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        every, seen = min(EVERY_S, self.deadline_s / 4), None
        while not self._stop.wait(every):
            now = self._now
            late = time.monotonic() - now[2] - self.deadline_s
            self._write(hung=late > 0)
            if late > 0 and seen is not now:
                with (self.folder / f"rank-{self.rank}.stack.txt").open("w") as out:
                    faulthandler.dump_traceback(out, all_threads=True)
                seen = now
            elif late > 2 * every:
                os._exit(HUNG)

    def _write(self, hung: bool = False) -> None:
        step, doing, since = self._now
        row: dict[str, Any] = {
            "rank": self.rank,
            "step": step,
            "doing": doing,
            "seconds": round(time.monotonic() - since, 1),
            "time": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "disk_free_mb": shutil.disk_usage(self.folder).free // 2**20,
            "hung": hung,
        }
        row |= {f"{name}_mb": size // 2**20 for name, size in gpu_memory().items()}
        write_text_atomic(self.folder / f"rank-{self.rank}.json", json.dumps(row))
