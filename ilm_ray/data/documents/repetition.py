"""Repetition in a batch of scanned texts: copied lines and paragraphs, frequent and repeated n-grams, known phrases.

Pieces are compared by 64-bit hashes. All that the kernel knows stands in this file: numba's cache looks at no other.
"""

import numpy as np
from numba import njit

from ilm_ray.data.documents.jit import HASHES, INTS, MATRIX, WORDS, kernel

# Columns of the result.
(COPIED_LINES, COPIED_LINE_CHARS, COPIED_PARAGRAPH_CHARS, STOP_WORDS, BOILERPLATE) = range(5)  # the last: characters
TOP = 5  # characters of the n-gram that covers most, n = 2, 3, 4
COPIED_5GRAMS, COPIED_10GRAMS = 8, 9  # characters inside n-grams seen before
COUNTS = 10

COPY_TOKENS = 3  # a shorter line is no copy of another: brackets, rules and single words come again in any text
LONGEST_PHRASE = 8  # tokens
# A phrase of boilerplate speaks for what stands around it in a short line, in a paragraph for itself alone.
SHORT_CHARS, SPREAD = 80, 3

_BASE = np.uint64(0x9E3779B97F4A7C15)


def hash_phrase(tokens: list[int]) -> int:
    """The hash that `count` gives to tokens of these hashes in a row."""
    gram = 0
    for token in tokens:
        gram = (gram * int(_BASE) + token) % 2**64
    return gram


@njit
def _home(key, mask):  # type: ignore[no-untyped-def]
    return np.int64((key * _BASE) >> np.uint64(33)) & mask


@njit
def _place(key, table, mask, round_):  # type: ignore[no-untyped-def]
    """(slot of a key, was it there?); a slot of an older round is free."""
    keys, values, rounds = table
    at = _home(key, mask)
    while rounds[at] == round_:
        if keys[at] == key:
            return at, True
        at = (at + 1) & mask
    keys[at], values[at], rounds[at] = key, 0, round_
    return at, False


@njit
def _copies(hashes, chars, tokens, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """(number, characters) of the pieces that were seen before."""
    pieces = copied = 0
    for i in range(total):
        if tokens[i] < COPY_TOKENS:
            continue
        _, seen = _place(hashes[i], table, mask, round_)
        if seen:
            pieces += 1
            copied += chars[i]
    return pieces, copied


@njit
def _top(grams, before, length, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """Characters of the n-gram that comes twice or more and, times its count, has most of them."""
    values = table[1]
    most = 0
    for i in range(total):
        at, seen = _place(grams[i], table, mask, round_)
        values[at] += 1
        if seen:
            most = max(most, values[at] * (before[i + length] - before[i]))
    return most


@njit
def _covered(grams, before, length, total, table, mask, round_):  # type: ignore[no-untyped-def]
    """Characters inside n-grams that were seen before; each counted once."""
    chars = end = 0
    for i in range(total):
        _, seen = _place(grams[i], table, mask, round_)
        if seen:
            chars += before[i + length] - before[max(i, end)]
            end = i + length
    return chars


@njit
def _ngrams(hashes, before, token_line, total, span, grams, marked, phrases, table, mask, round_, row):  # type: ignore[no-untyped-def]
    """Repeated n-grams, and phrases: they are n-grams too."""
    phrase_keys, meanings = phrases
    known = len(phrase_keys) - 1
    grams[:total] = hashes[:total]
    for length in range(1, max(10 * span, LONGEST_PHRASE) + 1):
        if length > 1:
            total -= 1
            for i in range(total):
                grams[i] = grams[i] * _BASE + hashes[i + length - 1]
        if length <= LONGEST_PHRASE:
            for i in range(total):
                at = _home(grams[i], known)
                while meanings[at] >= 0 and phrase_keys[at] != grams[i]:
                    at = (at + 1) & known
                if meanings[at] > 0:
                    row[STOP_WORDS] |= meanings[at]
                elif meanings[at] == 0 and token_line[i] == token_line[i + length - 1]:
                    marked[token_line[i]] += before[i + length] - before[i]
        n = length // span
        if length % span == 0 and 2 <= n <= 4:
            row[TOP + n - 2] = _top(grams, before, length, total, table, mask, round_ + length)
        elif length % span == 0 and (n == 5 or n == 10):
            at = COPIED_5GRAMS if n == 5 else COPIED_10GRAMS
            row[at] = _covered(grams, before, length, total, table, mask, round_ + length)


@njit
def _phrase_slots(phrases, meanings):  # type: ignore[no-untyped-def]
    """(hashes, meanings) by slot; a free slot means -1."""
    size = _power_of_two(4 * len(phrases))
    keys, slots = np.zeros(size, np.uint64), np.full(size, -1, np.int64)
    for i in range(len(phrases)):
        at = _home(phrases[i], size - 1)
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        keys[at], slots[at] = phrases[i], meanings[i]
    return keys, slots


@njit
def _power_of_two(least):  # type: ignore[no-untyped-def]
    size = 16
    while size < least:
        size *= 2
    return size


@kernel(INTS, INTS, MATRIX, WORDS, MATRIX, HASHES, INTS, MATRIX)
def count(
    borders: np.ndarray,
    spans: np.ndarray,
    pieces: np.ndarray,
    hashes: np.ndarray,
    numbers: np.ndarray,
    phrases: np.ndarray,
    meanings: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill out [texts, COUNTS] (zeros) from the hashes and numbers of `scan.count`.

    spans: tokens to a word, 1 or 2: an n-gram is that many times n tokens. pieces [texts, 3]: how many tokens, lines
    and paragraphs each text has. phrases and meanings are of `phrases.phrase_table`.
    """
    longest = 1
    for text in range(len(pieces)):
        longest = max(longest, pieces[text, 0], pieces[text, 1])
    # marked: characters of each line's boilerplate phrases
    before, grams, marked = np.zeros(longest + 1, np.int64), np.empty(longest, np.uint64), np.empty(longest, np.int64)
    size = _power_of_two(2 * longest)
    table = (np.empty(size, np.uint64), np.empty(size, np.int64), np.zeros(size, np.int64))
    slots = _phrase_slots(phrases, meanings)
    for text in range(len(pieces)):
        row = out[text]
        tokens, lines, paragraphs = pieces[text]
        h, n = hashes[:, borders[text] : borders[text + 1]], numbers[:, borders[text] : borders[text + 1]]
        mask = _power_of_two(2 * max(tokens, lines)) - 1
        round_ = text * 32 + 1  # each use of the table has a number of its own, so that nothing need be cleared
        row[COPIED_LINES], row[COPIED_LINE_CHARS] = _copies(h[1], n[2], n[3], lines, table, mask, round_)
        row[COPIED_PARAGRAPH_CHARS] = _copies(h[2], n[4], n[5], paragraphs, table, mask, round_ + 1)[1]
        for i in range(tokens):
            before[i + 1] = before[i] + n[0, i]
        marked[:lines] = 0
        _ngrams(h[0], before, n[1], tokens, spans[text], grams, marked, slots, table, mask, round_ + 1, row)
        for line in range(lines):
            row[BOILERPLATE] += min(n[2, line], marked[line] * (SPREAD if n[2, line] <= SHORT_CHARS else 1))
