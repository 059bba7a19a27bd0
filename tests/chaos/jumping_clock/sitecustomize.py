"""Python reads this first where its folder is on the path: `time.time` is off by the seconds in the file ILM_RAY_CLOCK.

The clock that deadlines are measured with, `time.monotonic`, never jumps, and Ray's own processes see the true one.
"""

import contextlib
import os
import time

_TRUE = time.time


def _off() -> float:
    now = _TRUE()
    with contextlib.suppress(OSError, ValueError), open(os.environ["ILM_RAY_CLOCK"]) as file:  # noqa: PTH123
        now += float(file.read())
    return now


time.time = _off
