"""Faults for `tests.chaos.table`: what each needs before a job starts, how it strikes, and what mends it afterwards."""

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.chaos.nodes import HERE, Nodes, signal_all
from tests.stumbling import KEYS, Stumbling, always, never

DISK_BYTES = 600 * 2**20
LEFT_BYTES = 64 * 2**10  # of a full disk
SLOW_BYTES_S = 2 * 10**6  # of a slow one
AWAY_S = (20.0, 90.0)  # the cluster takes about a minute to bury a node that does not answer
SILENCE_S = 20.0
STARVES_S = 60.0  # who has not asked for memory by then may never do so
CLOCK_JUMP_S = 3600.0
MISSED = "nothing"  # was struck, for nobody was at work any more
CLOCK = Path(__file__).parent / "jumping_clock"


@dataclass
class Scene:
    """Where a fault strikes. stack: what has to be undone when the run is over. A fault may move `run_dir`, and add to
    what jobs get: `arguments`, and `env`, their environment."""

    nodes: Nodes
    run_dir: Path
    rng: Random
    stack: ExitStack
    arguments: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    store: Stumbling | None = None


Job = subprocess.Popen[str]


def _nothing(scene: Scene) -> None: ...


@dataclass(frozen=True)
class Fault:
    """strike: says what it hit, or `MISSED`; after: the job has ended; only: the one stage that it can strike, None:
    any."""

    strike: Callable[[Scene, Job], str]
    before: Callable[[Scene], None] = _nothing
    after: Callable[[Scene], None] = _nothing
    only: str | None = None


def _kill_worker(scene: Scene, job: Job) -> str:
    def kill(victim: psutil.Process) -> bool:
        victim.kill()
        return True

    return _on_worker(scene, job, kill)


def _hang_worker(scene: Scene, job: Job) -> str:
    def stop(victim: psutil.Process) -> bool:
        victim.suspend()
        return True

    return _on_worker(scene, job, stop)


def _starve_worker(scene: Scene, job: Job) -> str:
    """No memory is left for it: the kernel kills it when it asks for more. One that does not is no victim."""
    group = _cramped(scene)

    def starve(victim: psutil.Process) -> bool:
        (group / "cgroup.procs").write_text(str(victim.pid))
        psutil.wait_procs([victim], timeout=STARVES_S)
        return _killed_for_memory(group) > 0

    return _on_worker(scene, job, starve)


def _cramped(scene: Scene) -> Path:
    """A control group of 1 MiB, of version 1 or 2."""
    root = Path("/sys/fs/cgroup/memory")
    group = (root if root.exists() else root.parent) / f"ilm-chaos-{scene.run_dir.name}"
    group.mkdir(exist_ok=True)
    (group / ("memory.limit_in_bytes" if root.exists() else "memory.max")).write_text(str(2**20))
    scene.stack.callback(_remove_group, group)
    return group


def _killed_for_memory(group: Path) -> int:
    """Processes of a control group that the kernel has killed."""
    events = next(path for name in ("memory.oom_control", "memory.events") if (path := group / name).exists())
    return int(dict(line.split() for line in events.read_text().splitlines())["oom_kill"])


def _remove_group(group: Path) -> None:
    signal_all([psutil.Process(int(pid)) for pid in (group / "cgroup.procs").read_text().split()], signal.SIGKILL)
    until = time.monotonic() + 30
    while (group / "cgroup.procs").read_text() and time.monotonic() < until:
        time.sleep(0.1)
    group.rmdir()


def _on_worker(scene: Scene, job: Job, act: Callable[[psutil.Process], bool]) -> str:
    """act: says whether it hit its victim; if not, another one is sought."""
    until = time.monotonic() + 20
    while time.monotonic() < until and job.poll() is None:
        if workers := scene.nodes.workers():
            victim = scene.rng.choice(workers)
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                title = " ".join(victim.cmdline()).strip()
                scene.stack.callback(signal_all, [victim], signal.SIGKILL)
                if act(victim):
                    return title[:60]
        time.sleep(0.05)
    return MISSED


def _kill_driver(scene: Scene, job: Job) -> str:
    job.kill()
    return "driver"


def _stop_driver(scene: Scene, job: Job) -> str:
    job.send_signal(signal.SIGTERM)
    return "driver"


def _some_node(scene: Scene) -> int:
    """One that works, if any does."""
    return scene.rng.choice(scene.nodes.busy() or scene.nodes.others())


def _lose_node(scene: Scene, job: Job) -> str:
    """Another one comes after a while, as a cluster that scales itself would have it."""
    number, wait_s = _some_node(scene), scene.rng.uniform(1.0, 20.0)
    scene.nodes.lose(number)
    _later(scene, wait_s, scene.nodes.add)
    return f"node {number}, another after {wait_s:.0f} s"


def _drain_node(scene: Scene, job: Job) -> str:
    """A spot notice: Ray learns that the node will go, it goes at the deadline, and another one comes at once."""
    number, seconds = _some_node(scene), int(scene.rng.uniform(20.0, 40.0))
    scene.nodes.add()
    if not scene.nodes.drain(number, seconds):
        return MISSED
    _later(scene, seconds, lambda: scene.nodes.lose(number))
    return f"node {number}, with a notice of {seconds} s"


def _second_driver(scene: Scene, job: Job) -> str:
    """The same command once more: it has to be refused, and to name the first."""
    if not (scene.run_dir / ".driver").exists():
        return MISSED
    with scene.run_dir.with_suffix(".second").open("w+") as said:
        second = scene.nodes.start(_inner(job), scene.env, said)
        code = second.wait(timeout=60)
        said.seek(0)
        line = said.read().strip().splitlines()[-1]
    if job.poll() is None and (code != 2 or str(scene.run_dir) not in line):
        raise RuntimeError(f"a second driver ended with exit code {code}: {line}")
    return line[:60]


def _inner(job: Job) -> list[str]:
    """The command of a job without what puts it on its node."""
    words = [str(word) for word in job.args] if isinstance(job.args, list) else []
    return words[words.index(sys.executable) :]


def _damage_checkpoint(scene: Scene, job: Job) -> str:
    """A byte of the newest checkpoint is another one when the job comes back: the one before has to do."""
    whole = sorted(
        (record.parent for record in (scene.run_dir / "ppo" / "checkpoints").glob("iteration-*/COMMIT")),
        key=lambda folder: int(folder.name.split("-")[1]),
    )
    if len(whole) < 2:
        return MISSED
    job.kill()
    job.wait()
    files = [path for path in sorted(whole[-1].rglob("*")) if path.is_file() and path.stat().st_size > 1000]
    damaged = scene.rng.choice(files)
    data = bytearray(damaged.read_bytes())
    data[scene.rng.randrange(len(data))] ^= 1
    damaged.write_bytes(data)
    return str(damaged.relative_to(scene.run_dir))[:60]


def _freeze_node(scene: Scene, job: Job) -> str:
    frozen, seconds = scene.nodes.on(_some_node(scene)), scene.rng.uniform(*AWAY_S)
    signal_all(frozen, signal.SIGSTOP)
    scene.stack.callback(scene.nodes.renew)
    _later(scene, seconds, lambda: signal_all(frozen, signal.SIGCONT))
    return f"{len(frozen)} processes for {seconds:.0f} s"


def _cut_network(scene: Scene, job: Job) -> str:
    number, seconds = _some_node(scene), scene.rng.uniform(*AWAY_S)
    scene.nodes.cut(number)
    scene.stack.callback(scene.nodes.renew)
    _later(scene, seconds, lambda: scene.nodes.cut(number, whole=True))
    return f"node {number} for {seconds:.0f} s"


def _later(scene: Scene, seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.start()
    scene.stack.callback(timer.join)


def _kill_head(scene: Scene, job: Job) -> str:
    scene.nodes.head().kill()
    return "gcs_server"


def _renew(scene: Scene) -> None:
    scene.nodes.renew()


def _small_disk(scene: Scene) -> None:
    """The run's folder lies on a disk of its own."""
    disk = _mounted(scene)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    scene.run_dir = disk / "run"


def _slow_disk(scene: Scene) -> None:
    source, disk = scene.run_dir.with_suffix(".slow"), _mounted(scene)
    source.mkdir(exist_ok=True)
    rates = [f"--{what}-rate={SLOW_BYTES_S}" for what in ("read", "write")]
    subprocess.run(["bindfs", *rates, str(source), str(disk)], check=True)
    scene.run_dir = disk / "run"


def _mounted(scene: Scene) -> Path:
    """A folder for a disk, which goes when the run is over."""
    disk = scene.run_dir.with_suffix(".disk")
    if disk.is_mount():  # of a table that was cut off
        subprocess.run(["umount", "-l", str(disk)], check=True)
    disk.mkdir(exist_ok=True)
    scene.stack.callback(disk.rmdir)
    scene.stack.callback(lambda: disk.is_mount() and subprocess.run(["umount", "-l", str(disk)], check=True))
    return disk


def _fill_disk(scene: Scene, job: Job) -> str:
    free = shutil.disk_usage(scene.run_dir).free
    # The job may fill what is left first, which is as good.
    with contextlib.suppress(OSError), _ballast(scene).open("wb", buffering=0) as file:
        for _ in range(max(0, free - LEFT_BYTES) // 2**16):
            file.write(bytes(2**16))
    return f"{free >> 20} MiB filled"


def _empty_disk(scene: Scene) -> None:
    _ballast(scene).unlink(missing_ok=True)


def _ballast(scene: Scene) -> Path:
    return scene.run_dir.parent / "ballast"


def _faulty_store(scene: Scene) -> None:
    """Checkpoints go to an S3, too."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address=HERE, port=0, verbose=False)
    moto.start()
    scene.stack.callback(moto.stop)
    moto._server.app = scene.store = Stumbling(moto._server.app)
    host, port = moto.get_host_and_port()
    scene.env |= {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    bucket = urllib.request.Request(f"http://{host}:{port}/chaos", method="PUT")
    urllib.request.urlopen(bucket, timeout=30).close()
    scene.arguments += [f"training.store=s3://chaos/{scene.run_dir.name}"]
    scene.stack.callback(scene.nodes.renew)
    scene.nodes.renew(**scene.env)


def _store_fails(scene: Scene, job: Job) -> str:
    store, seconds = scene.store, scene.rng.uniform(5.0, 60.0)
    assert store is not None
    store.silence_s = scene.rng.choice([0.0, SILENCE_S])
    store.fails = always
    _later(scene, seconds, lambda: setattr(store, "fails", never))
    return f"for {seconds:.0f} s, each answer after {store.silence_s:.0f} s"


def _false_clock(scene: Scene) -> None:
    """Python's clock is the one that a file sets off, in jobs and on all nodes."""
    (scene.run_dir.with_suffix(".clock")).write_text("0")
    scene.env |= {
        "PYTHONPATH": f"{CLOCK}:{scene.nodes.env['PYTHONPATH']}",
        "ILM_RAY_CLOCK": str(scene.run_dir.with_suffix(".clock")),
    }
    scene.stack.callback(scene.nodes.renew)
    scene.nodes.renew(**scene.env)


def _jump(scene: Scene, job: Job) -> str:
    by = scene.rng.choice([CLOCK_JUMP_S, -CLOCK_JUMP_S])
    scene.run_dir.with_suffix(".clock").write_text(str(by))
    return f"by {by:+.0f} s"


FAULTS = {
    "worker killed": Fault(_kill_worker),
    "worker hung": Fault(_hang_worker),
    "worker out of memory": Fault(_starve_worker),
    "driver killed": Fault(_kill_driver),
    "driver asked to stop": Fault(_stop_driver),
    "node lost": Fault(_lose_node),
    "node drained": Fault(_drain_node),
    "second driver": Fault(_second_driver),
    "checkpoint damaged": Fault(_damage_checkpoint, only="ppo"),
    "node frozen": Fault(_freeze_node),
    "network cut": Fault(_cut_network),
    "head lost": Fault(_kill_head, after=_renew),
    "disk full": Fault(_fill_disk, before=_small_disk, after=_empty_disk),
    "disk slow": Fault(lambda scene, job: f"{SLOW_BYTES_S} bytes a second", before=_slow_disk),
    "clock jumps": Fault(_jump, before=_false_clock),
    "store fails": Fault(_store_fails, before=_faulty_store, only="pretrain"),
}
