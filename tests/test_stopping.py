"""SIGTERM asks politely once, and ends at once the second time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from ilm_ray.stopping import ASKED, Stopped, stop_after_checkpoint, stop_at_once


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
