"""Kernels: ready when they are imported, in one form, wherever the package lies."""

import numpy as np

from ilm_ray.data.documents import repetition, scan
from ilm_ray.data.documents.jit import INTS, MATRIX, kernel
from ilm_ray.data.documents.scores import score_batch

SOURCE = """
def double(numbers, out):
    for i in range(len(numbers)):
        out[0, i] = 2 * numbers[i]
"""


def test_a_kernel_is_compiled_once_for_one_kind_of_argument() -> None:
    kernels = (scan.count, repetition.count)
    before = [list(each.signatures) for each in kernels]  # type: ignore[attr-defined]
    score_batch(["one", "二"], ["en", "zh"])
    assert [list(each.signatures) for each in kernels] == before  # type: ignore[attr-defined]
    assert [len(signatures) for signatures in before] == [1, 1]


def test_a_kernel_works_where_nothing_can_be_cached() -> None:
    names: dict[str, object] = {}
    exec(compile(SOURCE, "<no file>", "exec"), names)  # numba finds no place for the cache of such a function
    out = np.zeros((1, 3), np.int64)
    kernel(INTS, MATRIX)(names["double"])(np.arange(3), out)  # type: ignore[arg-type]
    assert out.tolist() == [[0, 2, 4]]
