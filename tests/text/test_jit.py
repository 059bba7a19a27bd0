"""Kernels: ready when they are imported, in one form, wherever the package lies."""

import numpy as np

from ilm_ray.text import scan
from ilm_ray.text.jit import INTS, MATRIX, kernel

SOURCE = """
def double(numbers, out):
    for i in range(len(numbers)):
        out[0, i] = 2 * numbers[i]
"""


def test_a_kernel_is_compiled_once_for_one_kind_of_argument() -> None:
    before = list(scan.count.signatures)  # type: ignore[attr-defined]
    assert len(before) == 1
    scores = np.zeros((1, scan.COUNTS), np.int64)
    numbers = np.zeros(2, np.int64)
    table = np.zeros(0x110000, np.uint32)
    nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    scan.count(np.zeros(0, np.uint32), numbers, numbers[:1] + 1, table, table, *nothing, scores)
    assert scan.count.signatures == before  # type: ignore[attr-defined]


def test_a_kernel_works_where_nothing_can_be_cached() -> None:
    names: dict[str, object] = {}
    exec(compile(SOURCE, "<no file>", "exec"), names)  # numba finds no place for the cache of such a function
    out = np.zeros((1, 3), np.int64)
    kernel(INTS, MATRIX)(names["double"])(np.arange(3), out)  # type: ignore[arg-type]
    assert out.tolist() == [[0, 2, 4]]
