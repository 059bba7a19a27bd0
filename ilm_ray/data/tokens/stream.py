"""The endless token stream of a source's documents: pass after pass, each in an order of its own."""

import bisect
import functools
from itertools import repeat
from typing import NamedTuple

import numpy as np

from ilm_ray.data.tokens.shards import TokenSource

# Weights and phases are counted in units of 2^-20, so that all sums are exact.
_UNIT_BITS = 20
_UNIT = 1 << _UNIT_BITS


class Piece(NamedTuple):
    """Tokens [start, stop) of a document."""

    source: str
    document: int
    start: int
    stop: int


class Stream:
    """Tokens of `documents` (numbers within `source`), drawn in passes; a document of weight w is in each w times.

    A fraction is made up over the passes: pass e holds floor(w (e + 1) + f) - floor(w e + f) copies, with f in [0, 1)
    from the document's id, so that any e passes hold w e of them to within one. Copies lie a whole share of the pass
    apart. Where a position lies follows from its number alone, although passes may differ in length.
    """

    def __init__(self, name: str, source: TokenSource, documents: np.ndarray, seed: tuple[int, ...]) -> None:
        self.name, self._seed = name, seed
        self.documents = documents[source.lengths[documents] > 0]
        self.lengths = source.lengths[self.documents]
        self.weights = source.weights[self.documents]
        self._weights = np.maximum(np.rint(self.weights.astype(np.float64) * _UNIT), 1).astype(np.int64)
        whole = not np.any(self._weights % _UNIT)
        self._fractions = np.zeros_like(self._weights) if whole else _fractions(source.ids[self.documents])
        self.tokens = int(self.lengths.sum())
        # In floats: counted in units, the tokens of a large source do not fit 64 bits. Nothing hangs on the last digit.
        self.tokens_per_pass = float(self.lengths.astype(np.float64) @ self._weights.astype(np.float64)) / _UNIT
        self._start = functools.lru_cache(maxsize=256)(self._start_of_pass)
        self._pass = functools.lru_cache(maxsize=2)(self._shuffled_pass)

    def pieces(self, start: int, count: int) -> list[Piece]:
        """The parts of documents that make up `count` tokens of the endless stream, from its token `start` on."""
        out, stop = list[Piece](), start + count
        while start < stop:
            number = self._pass_at(start)
            first = self._start(number)
            order, ends = self._pass(number)
            begin, end = start - first, min(stop - first, int(ends[-1]))
            chosen = slice(int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end, "left")) + 1)
            places, stops = order[chosen], ends[chosen]
            lengths = self.lengths[places]
            starts = np.maximum(begin - stops + lengths, 0)
            stops = np.minimum(end - stops + lengths, lengths)
            out += map(Piece, repeat(self.name), self.documents[places].tolist(), starts.tolist(), stops.tolist())
            start = first + end
        return out

    def _pass_at(self, position: int) -> int:
        # A pass starts at most `tokens` before or after the average of all passes before it.
        lowest = max(int((position - self.tokens) / self.tokens_per_pass) - 1, 0)
        highest = int((position + self.tokens) / self.tokens_per_pass) + 2
        return lowest + bisect.bisect_right(range(lowest, highest), position, key=self._start) - 1

    def _copies_before(self, number: int) -> np.ndarray:
        """Copies of each document in the passes before `number`."""
        return (self._weights * number + self._fractions) >> _UNIT_BITS

    def _start_of_pass(self, number: int) -> int:
        return int(self.lengths @ self._copies_before(number))

    def _shuffled_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Places (in `documents`) in the order of the pass, and where each ends in it."""
        copies = self._copies_before(number + 1) - self._copies_before(number)
        keys = np.random.default_rng([*self._seed, number, *self.name.encode()]).random(len(copies))
        places = np.repeat(np.arange(len(copies)), copies)
        copy = np.arange(len(places)) - np.repeat(np.cumsum(copies) - copies, copies)
        order = places[np.argsort((copy + keys[places]) / copies[places], kind="stable")]
        return order, np.cumsum(self.lengths[order])


def _fractions(ids: np.ndarray) -> np.ndarray:
    """A pseudo-random number in [0, _UNIT) for each id (the finaliser of splitmix64)."""
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(64 - _UNIT_BITS)).astype(np.int64)
