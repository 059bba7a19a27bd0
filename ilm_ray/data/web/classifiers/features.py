"""Texts as sets of hashed features, one compiled pass from code points to places in a table of weights.

A token is a word, a Chinese character or a punctuation mark; digits are all one digit, so that a phone number is its
length. Features of a text, each counted once:

- 1 to 3 neighbouring tokens, and two tokens around any third one
- 3 to 5 neighbouring characters of a word and its borders: survives misspelling
- 2 to 4 neighbouring shapes (short words and marks stand for themselves, longer ones for their last three letters and
  their capitals) between the borders of the text: word order, endings, a missing full stop
- 2 to 5 neighbouring groups of tokens (`groups.py`), two around any third one, around a token, and beside a token: word
  order where the words themselves are rare
- capitals; a token or a pair of tokens that comes again within eight
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from numba import njit, types

from ilm_ray.data.documents.codepoints import HAN, WORD, flatten, token_classes
from ilm_ray.data.web.safe.blocklist import fold

BITS = 22
PLACES = 1 << BITS
GROUP_BITS = 18
GROUP_PLACES = 1 << GROUP_BITS  # where tokens find their group
_PER_POINT = 24  # no text has more features than this for each of its code points, and _SPARE
_SPARE = 64
_TEXTS = 4096  # whose features are collected at once

_POINTS = types.Array(types.uint32, 1, "C", readonly=True)
_CLASSES = types.Array(types.uint8, 1, "C", readonly=True)
_BORDERS = types.Array(types.int64, 1, "C", readonly=True)
_GROUPS = types.Array(types.uint16, 1, "C", readonly=True)
_WEIGHTS = types.Array(types.float32, 1, "C", readonly=True)
_KEYS = types.Array(types.uint64, 1, "C")
_INTS = types.Array(types.int64, 1, "C")
_PLACES = types.Array(types.int32, 1, "C")
_LOGITS = types.Array(types.float64, 1, "C")

_SEED = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_TOP = np.uint64(64 - BITS)
_GROUP_TOP = np.uint64(64 - GROUP_BITS)
_NEAR = 8  # tokens between a token and its copy that still count as repetition
# What kind of feature, or of shape, a hash is of.
_TOKENS, _AROUND, _LETTERS, _SHAPES, _CAPITALS, _AGAIN, _PAIR_AGAIN, _SHORT, _LONG, _BEGIN, _END = range(1, 12)
_GROUP, _IN_GROUPS, _AROUND_ANY, _AROUND_TOKEN, _BEFORE, _BEHIND = range(12, 18)


def vectors(texts: Sequence[str], groups: np.ndarray) -> scipy.sparse.csr_matrix:
    """float32 [n, PLACES], a row a text: 1 / sqrt(k) at the k features that the text has, so that its norm is 1.

    groups: uint16 [GROUP_PLACES], the group of the token at each of `group_places`; 0: it has none.
    """
    parts = [_places(texts[start : start + _TEXTS], groups) for start in range(0, len(texts), _TEXTS)]
    counts = np.concatenate([np.zeros(0, np.int64), *(count for count, _ in parts)])
    values = np.repeat((1.0 / np.sqrt(np.maximum(counts, 1))).astype(np.float32), counts)
    places = np.concatenate([np.zeros(0, np.int32), *(place for _, place in parts)])
    matrix = scipy.sparse.csr_matrix((values, places, np.append(0, np.cumsum(counts))), (len(texts), PLACES))
    matrix.sort_indices()
    return matrix


def _places(texts: Sequence[str], groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how many features each text has, int64 [n]; the places of all of them)."""
    points, raw, borders = _flat(texts)
    ends = np.zeros(len(texts) + 1, np.int64)
    places = np.empty(len(points) * _PER_POINT + len(texts) * _SPARE, np.int32)
    _collect(points, raw, borders, token_classes(), groups, ends, places)
    return np.diff(ends), places[: ends[-1]].copy()


def logits(texts: Sequence[str], weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`vectors(texts, groups) @ weights` without the vectors, float64 [n]; weights float32 [PLACES]."""
    points, raw, borders = _flat(texts)
    values = np.empty(len(texts), np.float64)
    _weigh(points, raw, borders, token_classes(), groups, weights, values)
    return values


def token_keys(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the tokens of all texts, each text between its borders, uint64; int64 [n + 1] where each begins)."""
    points, raw, borders = _flat(texts)
    ends = np.zeros(len(texts) + 1, np.int64)
    keys = np.empty(len(points) + 2 * len(texts), np.uint64)
    _tokenize(points, raw, borders, token_classes(), ends, keys)
    return keys[: ends[-1]].copy(), ends


def group_places(keys: np.ndarray) -> np.ndarray:
    """The places of tokens' groups in the table, by `token_keys`; int64 [n] below GROUP_PLACES."""
    return ((keys * _SEED) >> _GROUP_TOP).astype(np.int64)


def _flat(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    raw, borders = flatten(texts)
    return flatten([fold(text) for text in texts])[0], raw, borders


@njit("uint64(uint64, uint64)", cache=True)
def _mixed(state, value):  # type: ignore[no-untyped-def]
    state = (state ^ value) * _STEP
    return state ^ (state >> _HALF)


@njit("uint64(uint32)", cache=True)
def _letter(point):  # type: ignore[no-untyped-def]
    return np.uint64(48 if 48 <= point <= 57 else point)


@njit(types.UniTuple(types.int64, 2)(
    _POINTS, _POINTS, types.int64, types.int64, _CLASSES, _KEYS, _KEYS, _KEYS), cache=True)  # fmt: skip
def _read(points, raw, begin, end, classes, tokens, shapes, keys):  # type: ignore[no-untyped-def]
    """Tokens and shapes of one text, between its borders, and the features that lie within one word."""
    key_count, count = 0, 1
    tokens[0] = shapes[0] = _mixed(_SEED, _BEGIN)
    at = begin
    while at < end:
        point = points[at]
        if classes[point] != WORD:
            if classes[point] == HAN or (point > 32 and point != 0xA0 and point != 0x3000):
                tokens[count] = shapes[count] = _mixed(_SEED, np.uint64(point))
                count += 1
            at += 1
            continue
        first = at
        key, capitals = _SEED, 0
        while at < end and classes[points[at]] == WORD:
            key = _mixed(key, _letter(points[at]))
            capitals += raw[at] != points[at]
            at += 1
        style = 0 if capitals == 0 else (2 if capitals == at - first > 1 else 1)
        shape = _mixed(_mixed(_SEED, _SHORT if at - first <= 3 else _LONG), np.uint64(style))
        for i in range(max(first, at - 3), at):
            shape = _mixed(shape, _letter(points[i]))
        tokens[count], shapes[count] = key, shape
        count += 1
        if style:
            keys[key_count] = _mixed(_mixed(_SEED, _CAPITALS), np.uint64(style))
            keys[key_count + 1] = _mixed(_mixed(_mixed(_SEED, _CAPITALS), np.uint64(style)), key)
            key_count += 2
        for i in range(first - 1, at - 1):
            key = _mixed(_SEED, _LETTERS)
            for j in range(i, min(i + 5, at + 1)):
                key = _mixed(key, _letter(points[j]) if first <= j < at else np.uint64(32))
                if j - i >= 2:
                    keys[key_count] = key
                    key_count += 1
    tokens[count] = shapes[count] = _mixed(_SEED, _END)
    return count + 1, key_count


@njit(types.int64(_KEYS, _KEYS, types.int64, _KEYS, types.int64), cache=True)
def _combine(tokens, shapes, count, keys, key_count):  # type: ignore[no-untyped-def]
    """Features of several neighbouring tokens, behind the first `key_count`; returns how many there are now."""
    for i in range(1, count - 1):
        key = _mixed(_SEED, _TOKENS)
        for j in range(i, min(i + 3, count - 1)):
            key = _mixed(key, tokens[j])
            keys[key_count] = key
            key_count += 1
        if i + 2 < count - 1:
            keys[key_count] = _mixed(_mixed(_mixed(_SEED, _AROUND), tokens[i]), tokens[i + 2])
            key_count += 1
        for j in range(i + 1, min(i + 1 + _NEAR, count - 1)):
            if tokens[i] == tokens[j]:
                keys[key_count] = _mixed(_mixed(_mixed(_SEED, _AGAIN), np.uint64(j - i)), shapes[i])
                key_count += 1
                if tokens[i + 1] == tokens[j + 1]:
                    keys[key_count] = _mixed(_mixed(_SEED, _PAIR_AGAIN), np.uint64(j - i))
                    key_count += 1
                break
    for i in range(count):
        key = _mixed(_SEED, _SHAPES)
        for j in range(i, min(i + 4, count)):
            key = _mixed(key, shapes[j])
            if j > i:
                keys[key_count] = key
                key_count += 1
    return key_count


@njit(types.int64(_KEYS, _KEYS, types.int64, _GROUPS, _KEYS, types.int64), cache=True)
def _group(tokens, group_keys, count, groups, keys, key_count):  # type: ignore[no-untyped-def]
    """Features of neighbouring groups, behind the first `key_count`; returns how many there are now.

    `group_keys` is overwritten with each token's group.
    """
    for i in range(count):
        group_keys[i] = _mixed(_mixed(_SEED, _GROUP), np.uint64(groups[np.int64((tokens[i] * _SEED) >> _GROUP_TOP)]))
    for i in range(count):
        key = _mixed(_SEED, _IN_GROUPS)
        for j in range(i, min(i + 5, count)):
            key = _mixed(key, group_keys[j])
            if j > i:
                keys[key_count] = key
                key_count += 1
        if i + 1 < count:
            keys[key_count] = _mixed(_mixed(_mixed(_SEED, _BEFORE), group_keys[i]), tokens[i + 1])
            keys[key_count + 1] = _mixed(_mixed(_mixed(_SEED, _BEHIND), tokens[i]), group_keys[i + 1])
            key_count += 2
        if i + 2 < count:
            keys[key_count] = _mixed(_mixed(_mixed(_SEED, _AROUND_ANY), group_keys[i]), group_keys[i + 2])
            around = _mixed(_mixed(_mixed(_SEED, _AROUND_TOKEN), group_keys[i]), tokens[i + 1])
            keys[key_count + 1] = _mixed(around, group_keys[i + 2])
            key_count += 2
    return key_count


@njit(types.int64(_BORDERS), cache=True)
def _longest(borders):  # type: ignore[no-untyped-def]
    longest = 0
    for text in range(len(borders) - 1):
        longest = max(longest, borders[text + 1] - borders[text])
    return longest


@njit(types.void(_POINTS, _POINTS, _BORDERS, _CLASSES, _INTS, _KEYS), cache=True, nogil=True)
def _tokenize(points, raw, borders, classes, ends, found_keys):  # type: ignore[no-untyped-def]
    longest = _longest(borders)
    tokens, shapes = np.empty(longest + 2, np.uint64), np.empty(longest + 2, np.uint64)
    keys = np.empty(longest * _PER_POINT + _SPARE, np.uint64)
    for text in range(len(borders) - 1):
        count, _ = _read(points, raw, borders[text], borders[text + 1], classes, tokens, shapes, keys)
        ends[text + 1] = ends[text] + count
        found_keys[ends[text] : ends[text + 1]] = tokens[:count]


@njit(types.void(_POINTS, _POINTS, _BORDERS, _CLASSES, _GROUPS, _INTS, _PLACES), cache=True, nogil=True)
def _collect(points, raw, borders, classes, groups, ends, places):  # type: ignore[no-untyped-def]
    longest = _longest(borders)
    tokens, shapes = np.empty(longest + 2, np.uint64), np.empty(longest + 2, np.uint64)
    keys = np.empty(longest * _PER_POINT + _SPARE, np.uint64)
    seen = np.full(PLACES, -1, np.int32)
    kept = 0
    for text in range(len(borders) - 1):
        count, key_count = _read(points, raw, borders[text], borders[text + 1], classes, tokens, shapes, keys)
        key_count = _combine(tokens, shapes, count, keys, key_count)
        key_count = _group(tokens, shapes, count, groups, keys, key_count)
        for i in range(key_count):
            place = np.int64((keys[i] * _SEED) >> _TOP)
            if seen[place] != text:
                seen[place] = text
                places[kept] = place
                kept += 1
        ends[text + 1] = kept


@njit(types.void(_POINTS, _POINTS, _BORDERS, _CLASSES, _GROUPS, _WEIGHTS, _LOGITS), cache=True, nogil=True)
def _weigh(points, raw, borders, classes, groups, weights, found_logits):  # type: ignore[no-untyped-def]
    longest = _longest(borders)
    tokens, shapes = np.empty(longest + 2, np.uint64), np.empty(longest + 2, np.uint64)
    keys = np.empty(longest * _PER_POINT + _SPARE, np.uint64)
    seen = np.full(PLACES, -1, np.int32)
    for text in range(len(borders) - 1):
        count, key_count = _read(points, raw, borders[text], borders[text + 1], classes, tokens, shapes, keys)
        key_count = _combine(tokens, shapes, count, keys, key_count)
        key_count = _group(tokens, shapes, count, groups, keys, key_count)
        total, kept = 0.0, 0
        for i in range(key_count):
            place = np.int64((keys[i] * _SEED) >> _TOP)
            if seen[place] != text:
                seen[place] = text
                total += weights[place]
                kept += 1
        found_logits[text] = total / np.sqrt(max(kept, 1))
