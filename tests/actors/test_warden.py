"""Wardens: a worker that stands still is ended and its task done again; one that works, or waits for its child or until
it is asked, is left alone."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import cloudpickle

from actors.warden import Wardens, pulse

HANG_S = 4.0

# Workers cannot import a test module by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _behave(row: dict[str, Any]) -> dict[str, Any]:
    """Marks each attempt; only a first one of the bad kinds stands still."""
    folder, how = Path(row["folder"]), row["how"]
    attempt = len(list(folder.glob(f"{how}-*")))
    (folder / f"{how}-{attempt}").write_text(str(os.getpid()))
    if how == "works":
        until = time.monotonic() + 3 * HANG_S
        while time.monotonic() < until:
            sum(range(10**5))
    if how == "waits":  # without waking once, for a child that works
        subprocess.run([sys.executable, "-c", _spin(3 * HANG_S)], check=True)
    if attempt == 0 and how == "deadlock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    if attempt == 0 and how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"how": how, "attempt": attempt}


def _spin(seconds: float) -> str:
    return f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


@pytest.mark.usefixtures("local_ray")
def test_tasks_that_stand_still_are_run_again_and_others_are_not(tmp_path: Path) -> None:
    kinds = ["works", "waits", "deadlock", "stopped"]
    lines: list[str] = []
    rows = [{"how": how, "folder": str(tmp_path)} for how in kinds]
    with Wardens(HANG_S, lines.append):
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_behave).take_all()
    assert sorted((row["how"], row["attempt"]) for row in made) == [
        ("deadlock", 1), ("stopped", 1), ("waits", 0), ("works", 0),
    ]  # fmt: skip
    ended = {int(match[1]) for line in lines if (match := re.search(r"ray::Map\(_behave\) \(pid (\d+) on ", line))}
    assert len(lines) == 2
    assert ended == {int((tmp_path / f"{how}-0").read_text()) for how in ("deadlock", "stopped")}


class Idler:
    """An actor that waits to be asked, or for a signal that never comes, from its first moment on."""

    def __init__(self, stopped: bool) -> None:
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.usefixtures("local_ray")
def test_an_actor_that_waits_lives_and_those_that_were_stopped_are_ended_even_if_nobody_can_be_told() -> None:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        raise OSError("No space left on device")

    def idler(stopped: bool) -> Any:
        return ray.remote(num_cpus=0)(Idler).remote(stopped)

    waits = idler(stopped=False)
    pid = ray.get(waits.pid.remote(), timeout=60)
    with Wardens(HANG_S, tell):
        for _ in range(2):
            with pytest.raises(ray.exceptions.ActorDiedError):
                ray.get(idler(stopped=True).pid.remote(), timeout=120)
            time.sleep(0.5)  # Ray hears of the end of a process before it has the warden's answer
    assert ray.get(waits.pid.remote(), timeout=60) == pid
    assert len(lines) == 2 and all("Idler" in line for line in lines)


@pytest.mark.process
def test_a_pulse_stops_with_the_process_and_beats_with_its_child() -> None:
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_spin(60)!r}])"
    process = psutil.Popen([sys.executable, "-c", command])
    try:
        until = time.monotonic() + 20
        while not process.children() and time.monotonic() < until:
            time.sleep(0.05)
        (child,) = process.children()
        time.sleep(1.0)
        first = pulse(process)
        time.sleep(0.5)
        assert pulse(process) != first
        child.suspend()
        time.sleep(0.5)
        still = pulse(process)
        time.sleep(1.0)
        assert pulse(process) == still
    finally:
        for target in [*process.children(), process]:
            target.kill()
        process.wait(20)
