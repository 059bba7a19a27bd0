"""The words of a text for comparing, and its runs of words, as hashes.

Words are those of the text stage (`documents/language.py`): runs of letters and digits, Chinese characters one by one.
Case and width do not count, punctuation is no word, numbers are. The label of a choice ("B.", "(c)", a letter that
starts a line) is none either, so that choices listed with and without labels are alike.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from ilm_ray.data.documents.characters import lower_case
from ilm_ray.data.documents.codepoints import HAN, flatten, token_classes

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HAN_BIT = np.uint32(1 << 31)
_ASCII = slice(0x21, 0x7F)
_WIDE_ASCII = slice(0xFF01, 0xFF5F)
_A, _LAST_LABEL, _ZERO, _NINE, _LINE_BREAK = 97, 104, 48, 57, 10  # a, h, 0, 9
_AFTER_LABEL = (0x29, 0x2E, 0x3A, 0xFF09, 0xFF0E, 0xFF1A, 0x3001)  # ) . : and their wide forms, the comma of lists


class HashedWords(NamedTuple):
    """Words of n texts, one after the other; `borders` [n + 1] says where each text's begin."""

    hashes: np.ndarray  # uint64
    halves: np.ndarray  # int64: 2 for a word, 1 for a Chinese character, of which a word has two on average
    numbers: np.ndarray  # bool: digits alone
    starts: np.ndarray  # int64: character of the text
    ends: np.ndarray
    borders: np.ndarray

    def text_of(self) -> np.ndarray:
        """int64: which text each word is of."""
        return np.repeat(np.arange(len(self.borders) - 1), np.diff(self.borders))


class Runs(NamedTuple):
    """The run that starts at each word: as many words as make up `ngram` of them, a Chinese character being half a one.

    lengths: in words; 0 where the text ends before the run is full.
    """

    hashes: np.ndarray  # uint64
    lengths: np.ndarray  # int64


def split_words(texts: Sequence[str]) -> HashedWords:
    """The words of `texts`."""
    points, borders = flatten(texts)
    return HashedWords(*_split(points, borders, _folded()))


def runs_of(words: HashedWords, ngram: int) -> Runs:
    """The run at every word."""
    return Runs(*_runs(words.hashes, words.halves, words.borders, 2 * ngram))


@functools.lru_cache(maxsize=1)
def _folded() -> np.ndarray:
    """uint32 [0x110000]: 0 for a code point outside words, else the small letter of normal width; Chinese ones
    marked."""
    small = np.arange(0x110000, dtype=np.uint32)
    small[: len(lower_case())] = lower_case()
    small[_WIDE_ASCII] = small[_ASCII]
    classes = token_classes()
    return np.where(classes == 0, np.uint32(0), np.where(classes == HAN, small | _HAN_BIT, small))


@njit
def _is_label(point, points, first, at, last):  # type: ignore[no-untyped-def]
    """Whether the letter at `at`, a word by itself in the text from `first` to `last`, is the label of a choice."""
    if point < _A or point > _LAST_LABEL:
        return False
    if at == first or points[at - 1] == _LINE_BREAK:
        return True
    if at + 1 == last:
        return False
    for mark in _AFTER_LABEL:  # noqa: SIM110  # numba knows no any()
        if points[at + 1] == mark:
            return True
    return False


@njit(cache=True, nogil=True)
def _split(points, borders, folded):  # type: ignore[no-untyped-def]
    hashes, halves = np.empty(len(points), np.uint64), np.empty(len(points), np.int64)
    numbers = np.empty(len(points), np.bool_)
    starts, ends = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
    word_borders = np.zeros(len(borders), np.int64)
    count = 0
    for text in range(len(borders) - 1):
        first, last = borders[text], borders[text + 1]
        at = first
        while at < last:
            point = folded[points[at]]
            if point == 0:
                at += 1
                continue
            start, han, digits = at, point & _HAN_BIT != 0, True
            value = _PRIME
            while True:
                value = (value ^ np.uint64(point)) * _MIX
                value ^= value >> np.uint64(29)
                digits &= _ZERO <= point <= _NINE
                at += 1
                following = folded[points[at]] if at < last else np.uint32(0)
                if han or following == 0 or following & _HAN_BIT:
                    break
                point = following
            if at - start > 1 or not _is_label(point, points, first, start, last):
                hashes[count], halves[count], numbers[count] = value ^ (value >> np.uint64(32)), 1 if han else 2, digits
                starts[count], ends[count] = start - first, at - first
                count += 1
        word_borders[text + 1] = count
    return hashes[:count], halves[:count], numbers[:count], starts[:count], ends[:count], word_borders


@njit(cache=True, nogil=True)
def _runs(hashes, halves, borders, wanted):  # type: ignore[no-untyped-def]
    runs, lengths = np.zeros(len(hashes), np.uint64), np.zeros(len(hashes), np.int64)
    for text in range(len(borders) - 1):
        for start in range(borders[text], borders[text + 1]):
            size, at = 0, start
            value = np.uint64(0)
            while size < wanted and at < borders[text + 1]:
                value = value * _PRIME + hashes[at]
                size += halves[at]
                at += 1
            if size >= wanted:
                value = (value ^ (value >> np.uint64(32))) * _MIX
                runs[start], lengths[start] = value ^ (value >> np.uint64(29)), at - start
    return runs, lengths
