"""Which passages of benchmark items a document holds.

The rule. A *run* is `ngram` words in a row, by default four, a Chinese character being half a word (`words.py`). Runs
that many items or many documents have in common, "which of the following is" or a licence, do not count (`index.py`);
the words of a passage that stand in a run that counts are its *own*. A passage is found where, within a stretch of the
document at most 1.5 times as long as the passage plus ten words, at least `share` of its own words

- are covered by runs that both have, in whatever order; or
- stand there in the passage's order, and half as many are covered (for passages of 13 own words or more).

So a changed name or number costs the words it changes, a moved clause nothing, and words that were put in between
little. The parts are those of others: overlapping n-grams of normalised words, too common ones ignored (Brown et al.
2020, GPT-3, appendix C, n of 8 to 13); the share of covered tokens, with room for a few that differ (Touvron et al.
2023, Llama 2, appendix A.6); the longest common subsequence (Qwen2 technical report, 2024, section 3).
Theirs look for long exact copies; shorter runs and a bounded stretch find edited ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from ilm_ray.data.decontamination.words import runs_of, split_words

STRETCH, SLACK = 1.5, 10
# Own words of a passage whose order is looked at: of fewer, the little words of any sentence make up too large a share;
# of more, it takes too long.
MIN_IN_ORDER, MAX_IN_ORDER = 13, 2000

_BASE = np.uint64(0x9E3779B97F4A7C15)


class Table(NamedTuple):
    """All passages, and the runs that count, by hash. Read-only arrays, so that processes can map them."""

    keys: np.ndarray  # uint64 [slots], a power of two; open addressing
    places: np.ndarray  # int64 [slots]: number of the run; -1 where free
    firsts: np.ndarray  # int64 [runs + 1]: where each run's occurrences begin
    passages: np.ndarray  # int32 [occurrences]
    positions: np.ndarray  # int32 [occurrences]: word of the passage
    hashes: np.ndarray  # uint64: words of all passages, one after the other
    own: np.ndarray  # bool: is the word the passage's own?
    borders: np.ndarray  # int64 [passages + 1]
    counts: np.ndarray  # int64 [passages]: own words


class Match(NamedTuple):
    """A passage that a text holds: share of its own words, and the characters of the text between which they stand."""

    text: int
    passage: int
    share: float
    start: int
    end: int


def find_passages(texts: Sequence[str], table: Table, ngram: int, share: float) -> list[Match]:
    """The passages that each of `texts` holds, by text, then by passage."""
    words = split_words(texts)
    runs = runs_of(words, ngram)
    known = find_runs(runs.hashes, runs.lengths, table.keys, table.places)
    numbers, shares = _match(words.hashes, words.borders, runs.lengths, known, tuple(table), share)
    matches = [
        Match(text, passage, value, int(words.starts[first]), int(words.ends[last]))
        for (text, passage, first, last), value in zip(numbers.tolist(), shares.tolist(), strict=True)
    ]
    return sorted(matches)


def run_slots(distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keys, places) of a table of distinct hashes; a hash's place is its number."""
    slots = 16
    while slots < 2 * len(distinct):
        slots *= 2
    keys, places = np.zeros(slots, np.uint64), np.full(slots, -1, np.int64)
    _fill(distinct, keys, places)
    return keys, places


@njit
def _slot(key, keys, places):  # type: ignore[no-untyped-def]
    mask = len(keys) - 1
    at = np.int64((key * _BASE) >> np.uint64(24)) & mask
    while places[at] >= 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _fill(distinct, keys, places):  # type: ignore[no-untyped-def]
    for number in range(len(distinct)):
        at = _slot(distinct[number], keys, places)
        keys[at], places[at] = distinct[number], number


@njit(cache=True, nogil=True)
def find_runs(hashes, lengths, keys, places):  # type: ignore[no-untyped-def]
    """int64: the table's number of each run; -1 for one that is not there, or not full."""
    numbers = np.full(len(hashes), -1, np.int64)
    for i in range(len(hashes)):
        if lengths[i]:
            numbers[i] = places[_slot(hashes[i], keys, places)]
    return numbers


@njit
def _in_order(passage, own_words, window):  # type: ignore[no-untyped-def]
    """Own words of the passage that stand in the window in the passage's order (longest common subsequence)."""
    row = np.zeros(len(window) + 1, np.int64)
    for i in range(len(passage)):
        diagonal = 0
        for j in range(len(window) if own_words[i] else 0):
            above = row[j + 1]
            if passage[i] == window[j]:
                row[j + 1] = diagonal + 1
            elif row[j] > above:
                row[j + 1] = row[j]
            diagonal = above
    return row[-1]


@njit
def _best_window(at, positions, lengths, own_words, limit):  # type: ignore[no-untyped-def]
    """(own words covered, first hit, last hit) of the best stretch of at most `limit` words; hits in document order."""
    cover = np.zeros(len(own_words), np.int64)
    covered = best = best_left = best_right = left = 0
    for right in range(len(at)):
        for word in range(positions[right], positions[right] + lengths[right]):
            covered += cover[word] == 0 and own_words[word]
            cover[word] += 1
        while at[right] + lengths[right] - at[left] > limit:
            for word in range(positions[left], positions[left] + lengths[left]):
                cover[word] -= 1
                covered -= cover[word] == 0 and own_words[word]
            left += 1
        if covered > best:
            best, best_left, best_right = covered, left, right
    return best, best_left, best_right


@njit
def _candidates(lengths, known, table, share, marks):  # type: ignore[no-untyped-def]
    """Passages half of whose share the document's runs could cover; `marks` says 1 + which of them a passage is."""
    firsts, passages, counts = table[2], table[3], table[8]
    seen = np.empty(16, np.int64)
    number = 0
    for i in range(len(known)):
        if known[i] >= 0:
            for occurrence in range(firsts[known[i]], firsts[known[i] + 1]):
                passage = passages[occurrence]
                if marks[passage] == 0:
                    if number == len(seen):
                        seen = np.append(seen, np.empty(number, np.int64))
                    seen[number] = passage
                    number += 1
                marks[passage] += lengths[i]
    kept = 0
    for k in range(number):
        passage = seen[k]
        enough = marks[passage] >= 0.5 * share * counts[passage]
        marks[passage] = 0
        if enough:
            seen[kept] = passage
            kept += 1
            marks[passage] = kept
    return seen[:kept]


@njit
def _gather(known, table, marks, candidates):  # type: ignore[no-untyped-def]
    """(borders, words of the document, words of the passage): the hits of each candidate, in document order."""
    firsts, passages, positions = table[2], table[3], table[4]
    borders = np.zeros(candidates + 1, np.int64)
    for i in range(len(known)):
        if known[i] >= 0:
            for occurrence in range(firsts[known[i]], firsts[known[i] + 1]):
                borders[marks[passages[occurrence]]] += 1
    borders[0] = 0  # hits of passages that are no candidates
    borders = np.cumsum(borders)
    filled = borders.copy()
    at, where = np.empty(borders[candidates], np.int64), np.empty(borders[candidates], np.int64)
    for i in range(len(known)):
        if known[i] >= 0:
            for occurrence in range(firsts[known[i]], firsts[known[i] + 1]):
                k = marks[passages[occurrence]] - 1
                if k >= 0:
                    at[filled[k]], where[filled[k]] = i, positions[occurrence]
                    filled[k] += 1
    return borders, at, where


@njit(cache=True, nogil=True)
def _match(hashes, borders, lengths, known, table, share):  # type: ignore[no-untyped-def]
    """(int64 [matches, 4]: text, passage, its first and last word in the batch; float64 [matches]: share)."""
    words, own_words, passage_borders, counts = table[5], table[6], table[7], table[8]
    marks = np.zeros(len(counts), np.int64)
    numbers, shares = np.empty((16, 4), np.int64), np.empty(16, np.float64)
    total = 0
    for text in range(len(borders) - 1):
        begin, end = borders[text], borders[text + 1]
        here, sizes, mine = known[begin:end], lengths[begin:end], hashes[begin:end]
        candidates = _candidates(sizes, here, table, share, marks)
        hits, at, where = _gather(here, table, marks, len(candidates))
        for k in range(len(candidates)):
            passage = candidates[k]
            marks[passage] = 0
            first, last = passage_borders[passage], passage_borders[passage + 1]
            limit = np.int64((last - first) * STRETCH) + SLACK
            places = at[hits[k] : hits[k + 1]]
            covered, left, right = _best_window(
                places, where[hits[k] : hits[k + 1]], sizes[places], own_words[first:last], limit
            )
            start, stop = places[left], places[right] + sizes[places[right]]
            value = covered / counts[passage]
            if 0.5 * share <= value < share and MIN_IN_ORDER <= counts[passage] <= MAX_IN_ORDER:
                room = (limit - (stop - start)) // 2
                window = mine[max(0, start - room) : stop + room]
                value = max(value, _in_order(words[first:last], own_words[first:last], window) / counts[passage])
            if value >= share:
                if total == len(shares):
                    numbers, shares = np.append(numbers, numbers, axis=0), np.append(shares, shares)
                numbers[total, 0], numbers[total, 1] = text, passage
                numbers[total, 2], numbers[total, 3] = begin + start, begin + stop - 1
                shares[total] = value
                total += 1
    return numbers[:total], shares[:total]
