"""MinHash signatures and band keys as datasketch defines them, without joining strings (report section 3.1, Dedup)."""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from datasketch import MinHash
from datasketch.lsh import _optimal_param

_CHUNK = 4096  # shingles at a time: a long document would otherwise need an array of shingles x hashes
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINISH = np.uint64(0xBF58476D1CE4E5B9)


def bands_and_rows(threshold: float, num_hashes: int) -> tuple[int, int]:
    """The banding that weighs misses and false hits at `threshold` equally: 14 x 9 for 0.7 and 128 hashes."""
    bands, rows = _optimal_param(threshold, num_hashes, 0.5, 0.5)
    return int(bands), int(rows)


def catch_probability(similarity: float, bands: int, rows: int) -> float:
    """Chance that two documents of this Jaccard similarity share a band."""
    return 1.0 - (1.0 - similarity**rows) ** bands


def shingle_hashes(words: Sequence[str], n: int) -> np.ndarray:
    """Distinct 32-bit hashes of the n-grams of `words`; a text of fewer than n tokens is one shingle.

    Words are hashed once and the hashes of neighbours combined, which is far cheaper than hashing joined strings.
    """
    single = np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) for word in words), np.uint64, len(words))
    n = min(n, len(words))
    count = len(words) - n + 1 if words else 0
    combined = np.full(count, n, np.uint64)
    for offset in range(n):
        combined = (combined ^ single[offset : offset + count]) * _MULTIPLIER
        combined ^= combined >> np.uint64(29)
    combined *= _FINISH
    return np.unique((combined >> np.uint64(32)).astype(np.uint32))


class Signer:
    """Turns shingle hashes into the signature that `MinHash.bulk` gives for them, and that into band keys."""

    def __init__(self, num_hashes: int, bands: int, rows: int) -> None:
        self.bands, self.rows = bands, rows
        self._empty = MinHash(num_perm=num_hashes, hashfunc=int)  # the values are hashes already

    def signature(self, hashes: np.ndarray) -> np.ndarray:
        """uint32 [num_hashes]."""
        sketch = self._empty.copy()
        for start in range(0, len(hashes), _CHUNK):
            sketch.update_batch(hashes[start : start + _CHUNK].tolist())
        return np.asarray(sketch.hashvalues)

    def band_keys(self, signature: np.ndarray) -> np.ndarray:
        """uint64 [bands]: a hash of each band's values, salted with the band's number."""
        keys = [
            _key(signature[band * self.rows : (band + 1) * self.rows].astype("<u4").tobytes(), b"band%d" % band)
            for band in range(self.bands)
        ]
        return np.array(keys, np.uint64)


def exact_key(words: Sequence[str]) -> int:
    """64-bit key of the token sequence: equal for texts that differ only in case, spacing and punctuation."""
    return _key("\x1f".join(words).encode("utf-8", "replace"), b"exact")


def _key(data: bytes, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=salt).digest(), "little")
