"""A warden a node ends data workers that stand still; Ray then runs their tasks again.

Ray Data waits for a task as long as its process answers, and a process in a deadlock, or on a mount that does not
answer, still answers Ray: its stage would wait for good. Training and PPO have deadlines of their own and no warden.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOKS = 4  # in the time that a worker may stand still
# A worker that runs a task of Ray Data is called after operator and function, as in "ray::Map(_as_json)". Other names
# are those of actors, which wait; so may one that keeps a model for Ray Data.
TASK = re.compile(r"ray::(?!MapWorker\()[\w.]+\(")

Pulse = tuple[tuple[int, ...], ...]


class Warden:
    """Looks after the workers of its own job on its own node."""

    def __init__(self, hang_s: float) -> None:
        self._hang_s = hang_s
        self._seen: dict[int, tuple[str, Pulse, float]] = {}  # process -> title, pulse, since when that is the same

    def look(self) -> list[str]:
        """After a while: what was ended, one line each."""
        time.sleep(self._hang_s / LOOKS)
        before, self._seen, ended = self._seen, {}, []
        now = time.monotonic()
        for process in _workers():
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                title, beat = _title(process), pulse(process)
                since = now
                if (known := before.get(process.pid)) is not None and known[:2] == (title, beat):
                    since = known[2]
                if now - since >= self._hang_s:
                    process.kill()
                    ended.append(f"{title} (pid {process.pid} on {os.uname().nodename})")
                else:
                    self._seen[process.pid] = title, beat, since
        return ended


def pulse(process: psutil.Process) -> Pulse:
    """What changes while a task is worked on: context switches and ticks of the main thread, where tasks run, and of
    child processes. Ray's own threads beside it never rest."""
    family = process.children(recursive=True)
    ticks = [int(100 * (t.user_time + t.system_time)) for t in process.threads() if t.id == process.pid]
    beats = [(process.pid, *process.num_ctx_switches(), *ticks)]
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            beats.append((child.pid, *child.num_ctx_switches(), int(100 * sum(child.cpu_times()[:2]))))
    return tuple(beats)


def _workers() -> list[psutil.Process]:
    """That run a task of Ray Data."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, or somebody else's
            if TASK.match(_title(process)) and _is_kin(process.environ()):
                found.append(process)
    return found


def _is_kin(environ: dict[str, str]) -> bool:
    """Whether a worker is of this one's job and node."""
    return all(environ.get(name) == os.environ[name] for name in ("RAY_JOB_ID", "RAY_RAYLET_PID"))


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()


class Wardens:
    """`with Wardens(hang_s, tell):` every node of the cluster that the driver is in has a warden, those that join too.

    hang_s: seconds that a worker may stand still; tell gets a line for each that was ended. No warden is started before
    a quarter of that time has passed.
    """

    def __init__(self, hang_s: float, tell: Callable[[str], None]) -> None:
        self._hang_s, self._tell = hang_s, tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wardens", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        wardens: dict[str, Any] = {}
        looks: dict[Any, str] = {}  # call under way -> its node
        while not self._over.wait(1.0 if wardens else self._hang_s / LOOKS):
            for node in (node["NodeID"] for node in ray.nodes() if node["Alive"]):
                if node not in wardens:
                    wardens[node] = _start(node, self._hang_s)
                    looks[wardens[node].look.remote()] = node
            answered = [call for call in looks if ray.wait([call], timeout=0)[0]]
            for call in answered:
                node = looks.pop(call)
                try:
                    for ended in ray.get(call):
                        self._tell(f"{ended} stood still for {self._hang_s:.0f} s and was ended; its task runs again")
                    looks[wardens[node].look.remote()] = node
                except ray.exceptions.RayError:  # the node is lost, or the warden: the next round starts another
                    del wardens[node]


def _start(node: str, hang_s: float) -> Any:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Warden).options(num_cpus=0, scheduling_strategy=place).remote(hang_s)
