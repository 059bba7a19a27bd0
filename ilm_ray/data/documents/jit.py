"""Compiled loops. A kernel has one signature, so that it is ready, or loaded from numba's cache, once it is imported.

One signature also keeps the cache sound where many processes fill it at once: each writes the same file, by renaming.
A kernel uses plain `numba.njit` functions and constants of its own file alone: the cache is thrown away when that file
changes, and only then.
"""

from collections.abc import Callable
from typing import Any

from numba import njit, types

INTS = types.Array(types.int64, 1, "C", readonly=True)
POINTS = types.Array(types.uint32, 1, "C", readonly=True)
HASHES = types.Array(types.uint64, 1, "C", readonly=True)
MATRIX = types.Array(types.int64, 2, "C")
WORDS = types.Array(types.uint64, 2, "C")


def kernel(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile a function of arrays that writes its results into its arguments; it runs without the interpreter lock."""

    def compiled(function: Callable[..., None]) -> Callable[..., None]:
        signature = types.void(*arguments)
        try:
            return njit(signature, cache=True, nogil=True)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            # Neither the package, nor the user's cache, nor NUMBA_CACHE_DIR can be written: compile for this process.
            return njit(signature, nogil=True)(function)

    return compiled
