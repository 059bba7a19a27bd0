"""MinHash signatures and band keys as datasketch defines them, a batch of texts at a time (report section 3.1, Dedup).

Nothing is joined or copied per shingle: one scan hashes the tokens of all texts, a second one combines the hashes of
neighbours and keeps the minima. Signatures equal those of `datasketch.MinHash` over the same shingle hashes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from ilm_ray.data.documents.codepoints import HAN, WORD, flatten, token_classes

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: multiplying by it is a bijection
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # the finishing multiplier of SplitMix64


@dataclass(frozen=True)
class Sketches:
    """Keys and signatures of a batch of n texts, for finding duplicates."""

    exact: np.ndarray  # uint64 [n]: equal for texts whose token sequences are equal
    bands: np.ndarray  # uint64 [n, bands]: a hash of each band's values, salted with the band's number
    signatures: np.ndarray  # uint32 [n, num_hashes]


def bands_and_rows(threshold: float, num_hashes: int) -> tuple[int, int]:
    """The banding that weighs misses and false hits at `threshold` equally: 14 x 9 for 0.7 and 128 hashes."""
    from datasketch.lsh import _optimal_param

    bands, rows = _optimal_param(threshold, num_hashes, 0.5, 0.5)
    return int(bands), int(rows)


def catch_probability(similarity: float, bands: int, rows: int) -> float:
    """Chance that two documents of this Jaccard similarity share a band."""
    return 1.0 - (1.0 - similarity**rows) ** bands


def sign_batch(texts: Sequence[str], ngram: int, num_hashes: int, bands: int, rows: int) -> Sketches:
    """Exact keys, band keys and signatures of `texts`.

    Tokens are those of `language.tokens`: lower-case words, Chinese characters one by one; a text of fewer than
    `ngram` tokens is one shingle.
    """
    from datasketch import MinHash

    hashes, borders = token_hashes(texts)
    # datasketch's own coefficients: the signatures can be compared with everyone's 128 hashes of seed 1.
    slopes, offsets = MinHash(num_perm=num_hashes).permutations
    signatures = np.full((len(texts), num_hashes), np.iinfo(np.uint32).max, np.uint32)
    _minima(*_shingles(hashes, borders, ngram), slopes, offsets, signatures)
    exact = np.array([_key(hashes[a:b].tobytes()) for a, b in pairwise(borders)], np.uint64)
    return Sketches(exact, _band_keys(signatures, bands, rows), signatures)


def token_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hash of every token of all texts, int64 [n + 1] where each text's tokens begin and end)."""
    points, borders = flatten([text.lower() for text in texts])
    return _hash_tokens(points, borders, token_classes())


def shingle_hashes(text: str, ngram: int) -> np.ndarray:
    """Distinct uint32 hashes of the n-grams of a text's tokens."""
    hashes, borders = token_hashes([text])
    return np.unique(_shingles(hashes, borders, ngram)[0])


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of signatures [..., num_hashes]: the share of equal minima, standard error ~0.04."""
    return np.asarray((first == second).mean(axis=-1))


def _key(tokens: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8, person=b"exact").digest(), "little")


@njit(cache=True, nogil=True)
def _hash_tokens(points, borders, classes):  # type: ignore[no-untyped-def]
    """Tokens of each text: runs of word characters, and Chinese characters one by one."""
    texts = len(borders) - 1
    ends = np.zeros(texts + 1, np.int64)
    for t in range(texts):
        count, inside = 0, False
        for i in range(borders[t], borders[t + 1]):
            kind = classes[points[i]]
            count += kind == HAN or (kind == WORD and not inside)
            inside = kind == WORD
        ends[t + 1] = ends[t] + count
    out = np.empty(ends[texts], np.uint64)
    for t in range(texts):
        place, inside = ends[t], False
        value = np.uint64(0)
        for i in range(borders[t], borders[t + 1]):
            kind = classes[points[i]]
            if inside and kind != WORD:
                out[place] = value ^ (value >> np.uint64(32))
                place += 1
            if kind == HAN or (kind == WORD and not inside):
                value = _PRIME
            if kind != 0:
                value = (value ^ np.uint64(points[i])) * _MIX
                value ^= value >> np.uint64(29)
            if kind == HAN:
                out[place] = value ^ (value >> np.uint64(32))
                place += 1
            inside = kind == WORD
        if inside:
            out[place] = value ^ (value >> np.uint64(32))
    return out, ends


@njit(cache=True, nogil=True)
def _shingles(hashes, borders, ngram):  # type: ignore[no-untyped-def]
    """uint32 hash of every n-gram and where each text's begin; one for a text of fewer than n tokens."""
    texts = len(borders) - 1
    ends = np.zeros(texts + 1, np.int64)
    for t in range(texts):
        count = borders[t + 1] - borders[t]
        ends[t + 1] = ends[t] + (max(count - ngram + 1, 1) if count else 0)
    out = np.empty(ends[texts], np.uint32)
    for t in range(texts):
        width = min(ngram, borders[t + 1] - borders[t])
        for i in range(ends[t + 1] - ends[t]):
            value = np.uint64(width)
            for j in range(borders[t] + i, borders[t] + i + width):
                value = (value ^ hashes[j]) * _PRIME
                value ^= value >> np.uint64(29)
            out[ends[t] + i] = (value * _MIX) >> np.uint64(32)
    return out, ends


@njit(cache=True, nogil=True)
def _minima(shingles, borders, slopes, offsets, signatures):  # type: ignore[no-untyped-def]
    """Minimum of slope * h + offset (mod 2^32) over a text's shingles, h behind MurmurHash3's finaliser."""
    hashes = len(slopes)
    for t in range(len(borders) - 1):
        lowest = signatures[t]
        for i in range(borders[t], borders[t + 1]):
            h = shingles[i]
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            h = np.uint32(h ^ (h >> np.uint32(16)))
            for k in range(hashes):
                lowest[k] = min(lowest[k], np.uint32(slopes[k] * h + offsets[k]))


@njit(cache=True, nogil=True)
def _band_keys(signatures, bands, rows):  # type: ignore[no-untyped-def]
    out = np.empty((len(signatures), bands), np.uint64)
    for t in range(len(signatures)):
        for band in range(bands):
            value = np.uint64(band + 1) * _PRIME
            for k in range(band * rows, (band + 1) * rows):
                value = (value ^ np.uint64(signatures[t, k])) * _MIX
                value ^= value >> np.uint64(31)
            out[t, band] = value
    return out
