"""Signs of life: what each rank is doing, on disk for whoever finds it dead, and an end to a wait that has none."""

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

from ilm_ray.base.files import write_text_atomic

HUNG = 86  # exit code of a process that ended itself because it made no progress
EVERY_S = 1.0


class Watch:
    """Writes `rank-<rank>.json` into `folder` every second: step, what the rank is doing since when, and where it runs.

    A rank that does one thing for longer than `deadline_s` leaves the stacks of its threads in `rank-<rank>.stack.txt`
    and, two signs of life later, ends its process: the others, which wait for it, cannot know. They began to wait at
    about the time when it began to hang, and the first to end takes the rest with it: by then each has left its stacks.
    """

    def __init__(self, folder: Path, rank: int, deadline_s: float) -> None:
        self.folder, self.rank, self.deadline_s = folder, rank, deadline_s
        folder.mkdir(parents=True, exist_ok=True)
        self._now: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def at(self, step: int, doing: str) -> None:
        """The rank now begins with `doing`, in step `step`."""
        self._now = (step, doing, time.monotonic())

    def failed(self, error: BaseException, trace: str) -> None:
        """Leave what ended this rank in `rank-<rank>.error.json`."""
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
        write_text_atomic(self.folder / f"rank-{self.rank}.json", json.dumps(row))
