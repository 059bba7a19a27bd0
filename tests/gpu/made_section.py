"""A section whose cases do what real ones must not do, for test_runner.py."""

import os
import time

from benchmarks.gpu.cases import Case, Figures, Skipped, Where


def cases(where: Where) -> list[Case]:
    return [
        Case("plain", lambda: {"value": 1}),
        Case("absent", _absent),
        Case("elsewhere", _elsewhere),
        Case("raises", _raises),
        Case("after it", lambda: {"value": 2}),
        Case("hangs", lambda: time.sleep(600) or {}, 0.5),
        Case("dies", _dies),
        Case("last", lambda: {"value": os.getpid()}),
    ]


def _absent() -> Figures:
    import no_such_kernel  # noqa: F401

    return {}


def _elsewhere() -> Figures:
    raise Skipped("needs another card")


def _raises() -> Figures:
    raise RuntimeError("CUDA error: an illegal memory access\nwith more lines")


def _dies() -> Figures:
    print("killed by hand", flush=True)
    os.kill(os.getpid(), 9)
    return {}
