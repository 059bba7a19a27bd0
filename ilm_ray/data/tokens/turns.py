"""The part of a mixture that each sequence comes from, in exact proportions and in closed form."""

import functools
from collections.abc import Sequence

import numpy as np

# Within a block the parts are shuffled. Larger blocks mix no better; smaller ones would hold rare parts unevenly.
BLOCK = 200
# After this many blocks every part has had its share to within one sequence. A power of two (see `_reversed_bits`).
PERIOD = 4096


class Turns:
    """Part of every sequence number, for parts with the given weights (positive, in any unit).

    With C the cumulated weights and o the block's offset in [0, 1), a block holds ceil(C_k B - o) - ceil(C_(k-1) B - o)
    sequences of part k: never negative, B together. The offsets of a period are all multiples of 1/PERIOD, each once,
    so that by Hermite's identity a period holds ceil(C_k B PERIOD) sequences of the parts up to k. They come in
    bit-reversed order (van der Corput), so that any stretch of blocks is nearly as exact.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.seed = seed
        cumulated = np.cumsum(weights) / np.sum(weights)
        borders = np.rint(cumulated * (BLOCK * PERIOD)).astype(np.int64)  # integers: the same on every machine
        borders[-1] = BLOCK * PERIOD
        up_to = -((_reversed_bits(PERIOD)[:, None] - borders) // PERIOD)  # ceil((border - offset) / PERIOD)
        self._counts = np.diff(up_to, axis=1, prepend=0)  # (PERIOD, parts)
        self._before = np.cumsum(np.vstack([np.zeros_like(borders), self._counts]), axis=0)  # (PERIOD + 1, parts)
        self._block = functools.lru_cache(maxsize=16)(self._shuffled_block)

    def turn(self, number: int) -> int:
        """The part that sequence `number` comes from."""
        block, within = divmod(number, BLOCK)
        return int(self._block(block)[0][within])

    def before(self, number: int) -> np.ndarray:
        """int64 (parts): sequences of each part among the first `number`."""
        block, within = divmod(number, BLOCK)
        periods, block_of_period = divmod(block, PERIOD)
        return periods * self._before[-1] + self._before[block_of_period] + self._block(block)[1][within]

    def _shuffled_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(BLOCK) parts in their order, and (BLOCK, parts) how many of each come before a place in the block."""
        parts = np.arange(self._counts.shape[1])
        generator = np.random.default_rng([self.seed, block])
        order = generator.permutation(np.repeat(parts, self._counts[block % PERIOD]))
        taken = np.cumsum(order[:, None] == parts, axis=0)
        return order, np.vstack([np.zeros_like(parts), taken[:-1]])


def _reversed_bits(size: int) -> np.ndarray:
    """0 .. size - 1, each number with its bits in reversed order; `size` is a power of two."""
    out = np.zeros(1, np.int64)
    while len(out) < size:
        out = np.concatenate([2 * out, 2 * out + 1])
    return out
