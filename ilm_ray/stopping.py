"""A polite end: SIGTERM (`ray job stop`, Slurm, `kill`) ends a run so that the same command goes on from there."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ilm_ray.corpus.files import write_text_atomic

ASKED = "stop"  # file in a stage's folder: its training is to save a checkpoint and end
EXIT_CODE = 128 + signal.SIGTERM


class Stopped(BaseException):
    """Somebody asked for the end. No Exception: whoever handles errors has none to handle."""


def stop_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM for stages that find their partial results again, whenever they end."""
    raise Stopped("stopped; the same command goes on from here")


@contextmanager
def stop_after_checkpoint(folder: Path) -> Iterator[None]:
    """Meanwhile SIGTERM leaves ASKED in `folder`, for the ranks of a training; a second one is handled as before.

    Only a main thread gets signals: in another one nothing changes.
    """
    (folder / ASKED).unlink(missing_ok=True)  # that of an earlier run
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / ASKED, "")

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        (folder / ASKED).unlink(missing_ok=True)
