"""Peak memory of a run: the driver, its descendants and the Ray processes on this node."""

import threading
from pathlib import Path
from types import TracebackType

import psutil


class PeakMemory:
    """Samples the proportional set size (shared pages counted once) of all processes that belong to the run."""

    def __init__(self, every_s: float = 1.0) -> None:
        self.peak_mb = 0.0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, run_memory_mb())
            if self._stop.wait(self._every_s):
                return


def run_memory_mb() -> float:
    """Memory in MiB of this process, its descendants, and Ray's processes on this node."""
    me = psutil.Process()
    members = {p.pid for p in me.children(recursive=True)} | {me.pid}
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith(("ray::", "raylet", "gcs_server")):
            members.add(process.pid)
    return sum(map(_pss_mb, members))


def _pss_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:  # the process has ended, or this system has no smaps_rollup
        pass
    return 0.0
