"""SIGTERM asks politely once, and ends at once the second time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from ilm_ray.stopping import ASKED, EXIT_CODE, Stopped, stop_after_checkpoint, stop_at_once

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, stop_at_once)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_first_signal_asks_and_the_second_ends(tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    with pytest.raises(Stopped), stop_after_checkpoint(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        assert (folder / ASKED).exists()
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second signal was not heard")
    assert not (folder / ASKED).exists()
    assert signal.getsignal(signal.SIGTERM) is stop_at_once


def test_what_an_earlier_run_was_asked_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / ASKED).touch()
    with stop_after_checkpoint(tmp_path):
        assert not (tmp_path / ASKED).exists()


def test_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    seen = []

    def work() -> None:
        with stop_after_checkpoint(tmp_path):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [stop_at_once]


WAITING = """
import sys, time
from pathlib import Path
import ray
from ilm_ray.corpus.stage import Result, Stage
from jobs._job import run_job

def work(context):
    waits = ray.remote(num_cpus=0)(lambda: time.sleep(600)).remote()
    Path(sys.argv[1], "waiting").touch()
    while True:
        ray.wait([waits], timeout=1.0)

run_job("waiting", [Stage("waiting", (), lambda config: {}, work)], ["--run-dir", sys.argv[1], "ray.dashboard=false"])
"""


def test_a_job_that_waits_for_ray_is_stopped_and_says_so(tmp_path: Path) -> None:
    """Ray turns what a signal's handler raises within its calls into errors of other kinds."""
    job = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        until = time.monotonic() + 90
        while not (tmp_path / "waiting").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.5)  # within a call
        job.send_signal(signal.SIGTERM)
        out, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == EXIT_CODE
    assert json.loads(out.splitlines()[-1])["status"] == "stopped"
