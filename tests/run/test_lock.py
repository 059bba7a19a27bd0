"""One driver a run folder: processes that really run, end and are killed; holders elsewhere by what NFS would show."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.run.lock import FOLDER, Driver, only_driver, require_free
from ilm_ray.run.lock import _this_process as this_process

SPAWN = multiprocessing.get_context("fork")
WAIT_S = 60.0


def hold(run_dir: Path, said: "Queue[Any]", seconds: float) -> None:
    """In a process of its own: hold the folder for so long; says whether it was let in."""
    try:
        with only_driver(run_dir, "jobs/sft.py", beat_s=0.05, patience_s=0.5):
            said.put(os.getpid())
            time.sleep(seconds)
    except UserError as error:
        said.put(str(error))


@contextlib.contextmanager
def holder(run_dir: Path, seconds: float = WAIT_S) -> Iterator[int]:
    """A living process that holds the folder; its id."""
    said: Queue[Any] = SPAWN.Queue()
    process = SPAWN.Process(target=hold, args=(run_dir, said, seconds))
    process.start()
    try:
        yield said.get(timeout=WAIT_S)
    finally:
        process.kill()
        process.join()


def elsewhere(run_dir: Path, number: int = 1) -> Path:
    """The lock of a driver on another machine."""
    driver = replace(this_process("jobs/ppo.py"), host="node-7", place="node-7 other-boot pid:[1]", job="raysubmit_x")
    (run_dir / FOLDER).mkdir(exist_ok=True)
    lock = run_dir / FOLDER / f"{number:08d}"
    lock.write_text(json.dumps(asdict(driver)))
    return lock


@pytest.mark.process
def test_the_second_driver_is_refused_and_told_who_the_first_is_until_that_one_is_dead(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        before = {path: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
        for refuse in (require_free, lambda path: only_driver(path, "jobs/ppo.py").__enter__()):
            with pytest.raises(UserError, match=rf"in use by jobs/sft.py on host {os.uname().nodename}, process {pid}"):
                refuse(tmp_path)
        assert {path: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()} == before
        os.kill(pid, signal.SIGSTOP)  # it stands still, but it may go on
        time.sleep(0.3)
        with pytest.raises(UserError, match="in use by"):
            require_free(tmp_path)
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
        with only_driver(tmp_path, "jobs/ppo.py"):
            assert time.monotonic() - started < 5, "the death of a process here is seen at once"
    require_free(tmp_path)


@pytest.mark.process
def test_of_many_drivers_at_once_one_is_let_in(tmp_path: Path) -> None:
    for _ in range(5):
        said: Queue[Any] = SPAWN.Queue()
        racers = [SPAWN.Process(target=hold, args=(tmp_path, said, 1.0)) for _ in range(8)]
        for process in racers:
            process.start()
        answers = [said.get(timeout=WAIT_S) for _ in racers]
        for process in racers:
            process.join(WAIT_S)
        winners = [answer for answer in answers if isinstance(answer, int)]
        assert len(winners) == 1
        assert all(f"process {winners[0]}" in answer for answer in answers if isinstance(answer, str))
        if winners[0] % 2:  # the lock of the next round: one that a killed driver left
            with holder(tmp_path) as pid:
                os.kill(pid, signal.SIGKILL)


def test_a_driver_on_another_machine_holds_the_run_while_it_beats(tmp_path: Path) -> None:
    lock = elsewhere(tmp_path)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(lock)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"jobs/ppo\.py on host node-7, process .*, job raysubmit_x"):
            require_free(tmp_path, patience_s=5)
    finally:
        ended.set()
        thread.join()
    with only_driver(tmp_path, "jobs/sft.py", patience_s=0.3):
        assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000002"]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000002"]


def test_the_clock_of_another_machine_does_not_matter(tmp_path: Path) -> None:
    for hours in (-5, 5):
        lock = elsewhere(tmp_path, 3)
        os.utime(lock, (time.time() + 3600 * hours,) * 2)
        with only_driver(tmp_path, "jobs/sft.py", patience_s=0.3):
            pass
        for path in (tmp_path / FOLDER).iterdir():
            path.unlink()


@pytest.mark.long
def test_a_record_that_was_cut_holds_no_run(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for number, text in enumerate(["", "[]", '{"pid": 1}', "\0" * 9], 1):
        (tmp_path / FOLDER / f"{number * 10:08d}").write_text(text)
        with only_driver(tmp_path, "jobs/sft.py", patience_s=0.2):
            pass


@pytest.mark.process
def test_a_driver_that_was_taken_for_dead_ends_before_it_writes_on(tmp_path: Path) -> None:
    said: Queue[Any] = SPAWN.Queue()
    process = SPAWN.Process(target=hold, args=(tmp_path, said, WAIT_S))
    process.start()
    said.get(timeout=WAIT_S)
    elsewhere(tmp_path, 2)
    process.join(WAIT_S)
    assert process.exitcode == 1


def test_a_driver_names_the_job_that_was_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    config = ray.job_config.JobConfig(metadata={"job_submission_id": "raysubmit_abc"})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": config.metadata}))
    assert str(this_process("jobs/sft.py")).endswith(f"process {os.getpid()}, job raysubmit_abc")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "no JSON")
    assert isinstance(this_process("jobs/sft.py"), Driver)
