"""A warden a node ends workers that stand still; Ray then runs their tasks again, or starts their actors anew.

Ray waits for a worker as long as its process lives or answers: Ray Data for a task in a deadlock, which answers for
good, whoever starts an actor for one that was stopped meanwhile. Training and PPO have deadlines of their own beside.
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

LOOKS = 4  # in the time that a worker may stand still; a frozen node's warden looks no more than its workers move
# A worker that runs a task of Ray Data is called after operator and function, as in "ray::Map(code_read)". Other names
# are those of actors, which may wait; so may one that keeps a model for Ray Data.
TASK = re.compile(r"ray::(?!MapWorker\()[\w.]+\(")

SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")
Pulse = tuple[tuple[int, ...], ...]


class Warden:
    """Looks after the workers of its own job on its own node."""

    def __init__(self, hang_s: float) -> None:
        self._hang_s = hang_s
        self._seen: dict[int, tuple[str, Pulse, int]] = {}  # process -> title, pulse, looks since that is the same

    def look(self) -> list[str]:
        """After a while: what was ended, one line each."""
        time.sleep(self._hang_s / LOOKS)
        before, self._seen, ended = self._seen, {}, []
        for process in _workers():
            with contextlib.suppress(psutil.Error):  # gone meanwhile
                title = _title(process)
                beat = pulse(process) if TASK.match(title) else signs_of_life(process)
                known = before.get(process.pid)
                still = known[2] + 1 if known is not None and known[:2] == (title, beat) else 0
                if still >= LOOKS:
                    process.kill()
                    ended.append(f"{title} (pid {process.pid} on {os.uname().nodename})")
                else:
                    self._seen[process.pid] = title, beat, still
        return ended


def pulse(process: psutil.Process) -> Pulse:
    """What changes while a task is worked on: context switches and ticks of the main thread, where tasks run, and of
    child processes. Ray's own threads beside it never rest."""
    ticks = [int(100 * (t.user_time + t.system_time)) for t in process.threads() if t.id == process.pid]
    beats = [(process.pid, *process.num_ctx_switches(), *ticks)]
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            beats.append((child.pid, *child.num_ctx_switches(), int(100 * sum(child.cpu_times()[:2]))))
    return tuple(beats)


def signs_of_life(process: psutil.Process) -> Pulse:
    """What changes in a worker that only waits too, for Ray's threads do: context switches of each thread. They stop
    in one that was stopped."""
    found = []
    for status in sorted(Path(f"/proc/{process.pid}/task").glob("*/status")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            found.append(tuple(int(number) for number in SWITCHES.findall(status.read_text(encoding="utf-8"))))
    if not found:
        raise psutil.NoSuchProcess(process.pid)
    return tuple(found)


def _workers() -> list[psutil.Process]:
    """Of this job and on this node, but for oneself."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, or somebody else's
            if process.pid != os.getpid() and _title(process).startswith("ray::") and _is_kin(process.environ()):
                found.append(process)
    return found


def _is_kin(environ: dict[str, str]) -> bool:
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
        self._wardens: dict[str, Any] = {}  # of each node
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
                over = self._over.wait(1.0)  # what is told last may be why the run ends
                self._hear()
            except Exception as error:  # a full disk that the journal lies on, say: the next round is another one
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
                ended = ray.get(call)
            except ray.exceptions.RayError:  # the node is lost, or the warden: another one is started
                del self._wardens[node]
                continue
            self._looks[self._wardens[node].look.remote()] = node
            for worker in ended:
                self._tell(f"{worker} stood still for {self._hang_s:.0f} s and was ended")


def _start(node: str, hang_s: float) -> Any:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Warden).options(num_cpus=0, scheduling_strategy=place).remote(hang_s)
