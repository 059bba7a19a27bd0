"""A polite end: Ctrl-C or SIGTERM (`ray job stop`, Slurm, `kill`), and the same command goes on from there."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ilm_ray.base.files import write_text_atomic

ASKED = "stop"  # file in a stage's folder: its training is to save a checkpoint and end
EXIT_CODE = 128 + signal.SIGTERM  # after either signal
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A stop was requested. No Exception: handlers of errors let it pass."""


def stop_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGNALS for stages that find their partial results again, whenever they end."""
    raise Stopped("stopped; the same command goes on from here")


@contextmanager
def handlers_kept() -> Iterator[None]:
    """After the context SIGNALS have the handlers of before: libraries set their own when they start."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside the context SIGNALS end the work at once: the one place where a job sets its handlers."""
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():  # no other thread gets signals
            for number in SIGNALS:
                signal.signal(number, stop_at_once)
        yield


@contextmanager
def stop_after_checkpoint(folder: Path) -> Iterator[None]:
    """Inside the context the first of SIGNALS leaves ASKED in `folder` for the training's ranks and restores handlers.

    Only a main thread gets signals: in another one nothing changes.
    """
    (folder / ASKED).unlink(missing_ok=True)  # that of an earlier run
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        restore()
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / ASKED, "")

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield
    finally:
        restore()
        (folder / ASKED).unlink(missing_ok=True)
