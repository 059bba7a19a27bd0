"""Ctrl-C and SIGTERM ask politely once, and end at once the second time."""

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

from ilm_ray.run.stopping import ASKED, EXIT_CODE, SIGNALS, Stopped, stop_after_checkpoint, stop_at_once

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = {number: signal.signal(number, stop_at_once) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(
    first: signal.Signals, second: signal.Signals, tmp_path: Path
) -> None:
    folder = tmp_path / "not there yet"
    with pytest.raises(Stopped), stop_after_checkpoint(folder):
        os.kill(os.getpid(), first)
        assert (folder / ASKED).exists()
        os.kill(os.getpid(), second)
        pytest.fail("the second signal was not heard")
    assert not (folder / ASKED).exists()
    assert [signal.getsignal(number) for number in SIGNALS] == [stop_at_once, stop_at_once]


def test_what_an_earlier_run_was_asked_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / ASKED).touch()
    with stop_after_checkpoint(tmp_path):
        assert not (tmp_path / ASKED).exists()


def test_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    seen = []

    def work() -> None:
        with stop_after_checkpoint(tmp_path):
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [stop_at_once, stop_at_once]


WAITING = """
import sys, time
from pathlib import Path
import ray
from ilm_ray.run.stage import Result, Stage
from jobs.frame.stages import run_job

def work(context):
    waits = ray.remote(num_cpus=0)(lambda: time.sleep(600)).remote()
    Path(sys.argv[1], "waiting").touch()
    while True:
        ray.wait([waits], timeout=1.0)

run_job("waiting", [Stage("waiting", (), lambda config: {}, work)], ["--run-dir", sys.argv[1], "ray.dashboard=false"])
"""


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_job_that_waits_for_ray_is_stopped_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    """Ray turns what a signal's handler raises within its calls into errors of other kinds."""
    job = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        until = time.monotonic() + 90
        while not (tmp_path / "waiting").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.5)  # within a call
        # A terminal sends Ctrl-C to all processes in its foreground, `kill` to one.
        os.killpg(job.pid, number) if number == signal.SIGINT else job.send_signal(number)
        out, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == EXIT_CODE
    assert json.loads(out.splitlines()[-1])["status"] == "stopped"
