"""Memory of a process tree, and commands with a deadline whose whole tree is measured and, if need be, ended."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil


@dataclass(frozen=True)
class Finished:
    """A command that ended with exit code 0, and what its process tree took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    stdout: str


class CommandFailed(Exception):
    """A command ended with another exit code, or not in time; the message holds the end of what it said."""


class TreePeak:
    """Samples process `pid` and its descendants; `peak_mb` is the most memory they held at one time.

    Memory is the proportional set size: a page that n processes share counts 1/n in each.
    """

    def __init__(self, pid: int, every_s: float = 0.5) -> None:
        self.peak_mb = 0.0
        self._cpu: dict[psutil.Process, float] = {}
        self._pid, self._every_s = pid, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "TreePeak":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes seen, up to their last sample: what one took after it is not counted."""
        return sum(self._cpu.values())

    def _sample(self) -> None:
        while not self._stop.is_set():
            members = tree(self._pid)
            self.peak_mb = max(self.peak_mb, sum(_pss_mb(process.pid) for process in members))
            for process in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._cpu[process] = times.user + times.system
            self._stop.wait(self._every_s)


def tree_mb(pid: int) -> float:
    """MiB that process `pid` and its descendants hold now; 0 where it has ended."""
    return sum(_pss_mb(process.pid) for process in tree(pid))


def tree(pid: int) -> list[psutil.Process]:
    """Process `pid` and its descendants; empty where it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def peer_python(folder: Path, packages: Sequence[str]) -> Path:
    """Python of a peer's own environment in `folder`, which is made with `packages` where it is absent."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True, timeout=1800)
    return python


def run_measured(command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None) -> Finished:
    """Run `command` to its end, measured. Raises CommandFailed; no process of its tree outlives a deadline."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True, env={**os.environ, **(env or {})})
        try:
            with TreePeak(process.pid) as memory:
                code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{command[:2]} did not end within {timeout_s:.0f} s: {_end(err)}") from None
        finally:
            for member in tree(process.pid):
                member.kill()
            process.wait()
        seconds = time.monotonic() - started
        out.seek(0)
        if code:
            raise CommandFailed(f"{command[:2]} ended with exit code {code}: {_end(err)}")
        return Finished(seconds, memory.cpu_seconds, memory.peak_mb, out.read())


def _end(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()[-2000:]


def _pss_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:  # it has ended meanwhile
        pass
    return 0.0
