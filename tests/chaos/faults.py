"""Faults for `tests.chaos.table`: what each needs before a job starts, how it strikes, and what mends it afterwards."""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from tests.chaos.nodes import NODES, Nodes

DISK_BYTES = 600 * 2**20
LEFT_BYTES = 64 * 2**10  # of a full disk
FROZEN_S = (20.0, 90.0)  # the cluster takes about a minute to bury a node that does not answer


@dataclass
class Scene:
    """Where a fault strikes. stack: what has to be undone when the run is over. A fault may move `run_dir`."""

    nodes: Nodes
    run_dir: Path
    rng: Random
    stack: ExitStack


Job = subprocess.Popen[str]


def _nothing(scene: Scene) -> None: ...


@dataclass(frozen=True)
class Fault:
    """strike: says what it hit; after: the job has ended; only: the one stage that it can strike, None: any."""

    strike: Callable[[Scene, Job], str]
    before: Callable[[Scene], None] = _nothing
    after: Callable[[Scene], None] = _nothing
    only: str | None = None


def _kill_worker(scene: Scene, job: Job) -> str:
    return _signal_worker(scene, job, signal.SIGKILL)


def _hang_worker(scene: Scene, job: Job) -> str:
    return _signal_worker(scene, job, signal.SIGSTOP)


def _signal_worker(scene: Scene, job: Job, number: signal.Signals) -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until and job.poll() is None:
        if found := scene.nodes.workers():
            victim = scene.rng.choice(found)
            try:
                title = " ".join(victim.cmdline()).strip()
                victim.send_signal(number)
            except psutil.NoSuchProcess:
                continue
            scene.stack.callback(_send, [victim], signal.SIGKILL)
            return title[:60]
        time.sleep(0.05)
    return "no worker was there"


def _kill_driver(scene: Scene, job: Job) -> str:
    job.kill()
    return "driver"


def _stop_driver(scene: Scene, job: Job) -> str:
    job.send_signal(signal.SIGTERM)
    return "driver"


def _lose_node(scene: Scene, job: Job) -> str:
    """Another one comes after a while, as a cluster that scales itself would have it."""
    number, wait_s = scene.rng.randrange(NODES - 1), scene.rng.uniform(1.0, 20.0)
    scene.nodes.lose(number)
    timer = threading.Timer(wait_s, scene.nodes.add)
    timer.start()
    scene.stack.callback(timer.join)
    return f"node {number}, another after {wait_s:.0f} s"


def _freeze_node(scene: Scene, job: Job) -> str:
    raylet, seconds = scene.nodes.raylet(scene.rng.randrange(NODES - 1)), scene.rng.uniform(*FROZEN_S)
    frozen = [raylet, *raylet.children(recursive=True)]
    _send(frozen, signal.SIGSTOP)
    timer = threading.Timer(seconds, _send, (frozen, signal.SIGCONT))
    timer.start()
    scene.stack.callback(scene.nodes.renew)
    scene.stack.callback(timer.join)
    return f"{len(frozen)} processes for {seconds:.0f} s"


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _kill_head(scene: Scene, job: Job) -> str:
    scene.nodes.head().kill()
    return "gcs_server"


def _renew(scene: Scene) -> None:
    scene.nodes.renew()


def _small_disk(scene: Scene) -> None:
    """The run's folder lies on a disk of its own."""
    disk = scene.run_dir.with_suffix(".disk")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    scene.stack.callback(disk.rmdir)
    scene.stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
    scene.run_dir = disk / "run"


def _fill_disk(scene: Scene, job: Job) -> str:
    free = shutil.disk_usage(scene.run_dir).free
    with _ballast(scene).open("wb") as file:
        for _ in range(max(0, free - LEFT_BYTES) // 2**16):
            file.write(bytes(2**16))
    return f"{free >> 20} MiB filled"


def _empty_disk(scene: Scene) -> None:
    _ballast(scene).unlink(missing_ok=True)


def _ballast(scene: Scene) -> Path:
    return scene.run_dir.parent / "ballast"


FAULTS = {
    "worker killed": Fault(_kill_worker),
    "worker hung": Fault(_hang_worker),
    "driver killed": Fault(_kill_driver),
    "driver asked to stop": Fault(_stop_driver),
    "node lost": Fault(_lose_node),
    "node out of reach": Fault(_freeze_node),
    "head lost": Fault(_kill_head, after=_renew),
    "disk full": Fault(_fill_disk, before=_small_disk, after=_empty_disk),
}
