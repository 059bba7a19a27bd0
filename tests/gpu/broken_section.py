"""A section that cannot list its cases, for test_runner.py."""

from benchmarks.gpu.cases import Case, Where


def cases(where: Where) -> list[Case]:
    raise RuntimeError("the driver is gone")
