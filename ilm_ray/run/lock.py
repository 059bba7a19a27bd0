"""One driver a run folder: a lock that dies with its holder, between machines that share the folder too.

The lock is the file of the highest number in `<run>/.driver`; it is made with O_EXCL, which every file system has, NFS
from version 3 on. A free lock is taken by making the next number, so nobody takes a lock that somebody else took
meanwhile. While a driver runs, a thread touches its file. Whoever finds it looks:

- on the same machine (host, boot and process namespace) for the process: one that is gone holds nothing;
- from elsewhere for a new time of the file within `patience_s`. Clocks are never compared.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic

FOLDER = ".driver"
BEAT_S = 5.0
PATIENCE_S = 75.0  # without a beat the holder is dead; NFS may show times that are a minute old
_NAME = re.compile(r"\d{8}")
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's, in the environment of a submitted job
ENDED: dict[str, Any] = {"ended": True}  # a lock of a driver that let go of it
LOST = 1  # exit code of a driver whose run another one has taken over


@dataclass(frozen=True)
class Driver:
    """The process that drives a run. place: tells machines, their boots and process namespaces apart; started: the
    process's start in ticks since the boot; job: the id of the submitted job, if any; command: the name of its job."""

    host: str
    pid: int
    place: str
    started: int
    command: str
    job: str | None = None

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.command} on host {self.host}, process {self.pid}{job}"


@contextlib.contextmanager
def only_driver(
    run_dir: Path, command: str, beat_s: float = BEAT_S, patience_s: float = PATIENCE_S
) -> Iterator[Driver]:
    """Hold the run folder, which must exist, for this process.

    Raises UserError naming the driver that holds it; a driver elsewhere is looked at for up to `patience_s`. Where
    another driver takes the run over, because this one did not beat for so long, this process ends at once.
    """
    own = _this_process(command)
    mine = _take(run_dir / FOLDER, own, patience_s)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(mine, own, ended, beat_s), name="driver-lock", daemon=True)
    beats.start()
    try:
        yield own
    finally:
        ended.set()
        beats.join()
        with contextlib.suppress(OSError):  # the storage is gone: then the lock dies of missing beats
            write_text_atomic(mine, json.dumps(ENDED))


def require_free(run_dir: Path, patience_s: float = PATIENCE_S) -> None:
    """Raise UserError where another driver holds `run_dir`; takes nothing and writes nothing."""
    newest = _newest(run_dir / FOLDER)
    if newest is not None and (holder := _holder(newest, patience_s)) is not None:
        raise _held(run_dir, holder)


def _take(folder: Path, own: Driver, patience_s: float) -> Path:
    folder.mkdir(exist_ok=True)
    while True:
        newest = _newest(folder)
        if newest is not None and (holder := _holder(newest, patience_s)) is not None:
            raise _held(folder.parent, holder)
        mine = folder / f"{1 if newest is None else int(newest.name) + 1:08d}"
        try:
            with mine.open("x", encoding="utf-8") as out:
                out.write(json.dumps(asdict(own)))
                out.flush()
                os.fsync(out.fileno())
        except FileExistsError:
            continue  # another driver was faster; it is looked at now
        if _newest(folder) != mine:  # numbers above it came and went while this process slept
            mine.unlink()
            continue
        for old in _numbered(folder):
            if old.name < mine.name:
                old.unlink(missing_ok=True)
        return mine


def _beat(mine: Path, own: Driver, ended: threading.Event, beat_s: float) -> None:
    while not ended.wait(beat_s):
        with contextlib.suppress(OSError):  # the storage may come back
            newest = _newest(mine.parent)
            if newest is None:
                continue  # somebody removed it; whoever takes the run now is seen in the next round
            found = _read(newest)
            if newest == mine and (found == asdict(own) or found in (ENDED, {})):
                os.utime(mine)
                continue
            print(
                f"{mine.parent.parent} was taken over by {found.get('command')} on host {found.get('host')}, process "
                f"{found.get('pid')}, because this driver, process {os.getpid()}, gave no sign of life; it ends now",
                file=sys.stderr,
                flush=True,
            )
            os._exit(LOST)  # whatever it would write mixes with the other one's


def _holder(lock: Path, patience_s: float) -> Driver | None:
    """The living driver that holds `lock`; None where it has ended or is dead."""
    holder = _driver(lock)
    if holder is None:
        return None
    alive = _start_of(holder.pid) == holder.started if holder.place == _place() else _beats(lock, holder, patience_s)
    return holder if alive else None


def _driver(lock: Path) -> Driver | None:
    """The driver that `lock` names, None where it has ended. One whose record cannot be read has just begun, or was
    killed while it began."""
    for _ in range(10):
        found = _read(lock)
        if found == ENDED:
            return None
        with contextlib.suppress(TypeError):
            return Driver(**found)
        time.sleep(0.1)
    return Driver("?", 0, "", 0, "a driver that has just begun")


def _beats(lock: Path, holder: Driver, patience_s: float) -> bool:
    """Whether the time of `lock` changes within `patience_s`. A lock that ends meanwhile is free."""
    first = _time_of(lock)
    deadline = time.monotonic() + patience_s
    print(f"looking for up to {patience_s:g} s whether {holder} is still alive", file=sys.stderr, flush=True)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s / 10))
        now = _time_of(lock)
        if now is None or _read(lock) == ENDED:
            return False
        if now != first:
            return True
    return False


def _held(run_dir: Path, holder: Driver) -> UserError:
    return UserError(
        f"{run_dir} is in use by {holder}; wait until it has ended, stop it, or give another --run-dir: two drivers of "
        "one run would mix their results"
    )


def _numbered(folder: Path) -> list[Path]:
    """Locks in order. A listing of NFS is fresh after a file was made in the folder."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def _newest(folder: Path) -> Path | None:
    locks = _numbered(folder)
    return locks[-1] if locks else None


def _read(lock: Path) -> dict[str, Any]:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:  # its holder has gone, and the next one has tidied up
        return ENDED
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time_of(lock: Path) -> int | None:
    """The file's time by an open descriptor: NFS asks its server anew when a file is opened."""
    try:
        with lock.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _this_process(command: str) -> Driver:
    job = None
    with contextlib.suppress(ValueError, AttributeError):
        job = json.loads(os.environ.get(_JOB, "{}")).get("metadata", {}).get("job_submission_id")
    started = _start_of(os.getpid())
    assert started is not None, "this process is alive"
    return Driver(socket.gethostname(), os.getpid(), _place(), started, command, job)


def _place() -> str:
    """Machine, boot and process namespace: where it is the same, a process id means the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: beats tell
        return f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"


def _start_of(pid: int) -> int | None:
    """Start of a process in ticks since the boot; None where there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
