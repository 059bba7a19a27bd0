"""A warden on each node kills workers that make no progress; Ray then retries their tasks or restarts their actors.

Ray waits as long as a worker's process exists, so a deadlocked Ray Data task or a SIGSTOPped worker blocks a stage
forever. Training and PPO have deadlines besides.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOKS = 4  # within hang_s; on a frozen node the warden is frozen too, and counts nothing against the workers
# The title of a worker that runs a Ray Data task has operator and function, as in "ray::Map(code_read)". Other titles
# are those of actors, which may wait for calls; so may a MapWorker, which keeps a model for Ray Data.
TASK = re.compile(r"ray::(?!MapWorker\()[\w.]+\(")

SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")
Pulse = tuple[tuple[int, ...], ...]


class Warden:
    """Watches the workers of its job on its node."""

    def __init__(self, hang_s: float) -> None:
        self._hang_s = hang_s
        self._seen: dict[int, tuple[str, Pulse, int]] = {}  # process -> title, pulse, looks without a change of both

    def look(self) -> list[str]:
        """Look at the workers once, after hang_s / LOOKS; returns the killed workers, one line each."""
        time.sleep(self._hang_s / LOOKS)
        before, self._seen, killed = self._seen, {}, []
        for process in _workers():
            with contextlib.suppress(psutil.Error):  # the process ended meanwhile
                title = _title(process)
                now = pulse(process) if TASK.match(title) else signs_of_life(process)
                last = before.get(process.pid)
                unchanged = last[2] + 1 if last is not None and last[:2] == (title, now) else 0
                if unchanged >= LOOKS:
                    process.kill()
                    killed.append(f"{title} (pid {process.pid} on {os.uname().nodename})")
                else:
                    self._seen[process.pid] = title, now, unchanged
        return killed


def pulse(process: psutil.Process) -> Pulse:
    """Counters that a running task changes: context switches and ticks of the main thread, which runs tasks, and of
    child processes. Ray's threads in the same process never rest, so they do not count."""
    ticks = [int(100 * (t.user_time + t.system_time)) for t in process.threads() if t.id == process.pid]
    beats = [(process.pid, *process.num_ctx_switches(), *ticks)]
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            beats.append((child.pid, *child.num_ctx_switches(), int(100 * sum(child.cpu_times()[:2]))))
    return tuple(beats)


def signs_of_life(process: psutil.Process) -> Pulse:
    """Counters that change in a waiting worker too: context switches of each thread, Ray's among them. A SIGSTOPped
    worker does not change them."""
    switches = []
    for status in sorted(Path(f"/proc/{process.pid}/task").glob("*/status")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended
            switches.append(tuple(int(number) for number in SWITCHES.findall(status.read_text(encoding="utf-8"))))
    if not switches:
        raise psutil.NoSuchProcess(process.pid)
    return tuple(switches)


def _workers() -> list[psutil.Process]:
    """The workers of this job on this node, without this process."""
    workers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # the process ended, or belongs to another user
            if process.pid != os.getpid() and _title(process).startswith("ray::") and _is_of_job(process.environ()):
                workers.append(process)
    return workers


def _is_of_job(environ: dict[str, str]) -> bool:
    return all(environ.get(name) == os.environ[name] for name in ("RAY_JOB_ID", "RAY_RAYLET_PID"))


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()


class Wardens:
    """`with Wardens(hang_s, tell):` every node of the driver's cluster has a warden, a node that joins later too.

    hang_s: seconds that a worker may go without progress; `tell` gets a line for each killed worker. No warden is
    started before a quarter of that time has passed.
    """

    def __init__(self, hang_s: float, tell: Callable[[str], None]) -> None:
        self._hang_s, self._tell = hang_s, tell
        self._wardens: dict[str, Any] = {}  # node -> its warden
        self._looks: dict[Any, str] = {}  # call under way -> its node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wardens", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        over = self._over.wait(self._hang_s / LOOKS)
        while not over:
            try:
                self._send_out()
                over = self._over.wait(1.0)
                self._hear()  # after `over` too: the last line may be the reason why the run ends
            except Exception as error:  # such as a full disk under the journal: the next round may succeed
                print(f"wardens: {type(error).__name__}: {error}", file=sys.stderr)
                over = self._over.wait(1.0)

    def _send_out(self) -> None:
        for node in (node["NodeID"] for node in ray.nodes() if node["Alive"]):
            if node not in self._wardens:
                self._wardens[node] = _start(node, self._hang_s)
                self._looks[self._wardens[node].look.remote()] = node

    def _hear(self) -> None:
        for call in [call for call in self._looks if ray.wait([call], timeout=0)[0]]:
            node = self._looks.pop(call)
            try:
                killed = ray.get(call)
            except ray.exceptions.RayError:  # node or warden is lost: another warden is started
                del self._wardens[node]
                continue
            self._looks[self._wardens[node].look.remote()] = node
            for worker in killed:
                self._tell(f"{worker} stood still for {self._hang_s:.0f} s and was ended")


def _start(node: str, hang_s: float) -> Any:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Warden).options(num_cpus=0, scheduling_strategy=place).remote(hang_s)
