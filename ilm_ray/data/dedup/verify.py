"""Which copies of a cluster stay: a document falls only if its signature is near that of a copy that stays.

The clusters are chains of neighbours, whose ends may share nothing. Signatures of n values of which k must be equal
differ in n - k places at most; so of n - k + 1 bands of neighbouring values one is equal in both. The copies that stay
are found by their bands, and each document meets only those that it may be near: time grows with the members.
"""

import numpy as np
from numba import njit

FEW = 16  # members: smaller clusters need no index


def settle(order: np.ndarray, borders: np.ndarray, signatures: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """(position of the copy kept instead, number of equal values) of each member; a kept one is its own.

    order: positions of the members, cluster by cluster and by id, int64; borders [clusters + 1]: where each begins.
    signatures: uint32 [members, hashes]. The first member of a cluster is kept, then the first of those that share
    fewer than `least` (at least 1) values with it, and so on; a member falls to the first copy that it is near.
    """
    hashes = signatures.shape[1]
    starts = np.linspace(0, hashes, min(hashes - least + 1, hashes) + 1).astype(np.int64)
    leader, equal = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    _settle(order, borders, np.ascontiguousarray(signatures), least, starts, leader, equal)
    return leader, equal


@njit(cache=True, nogil=True)
def _equal(first, second):  # type: ignore[no-untyped-def]
    count = 0
    for k in range(len(first)):
        count += first[k] == second[k]
    return count


@njit(cache=True, nogil=True)
def _band_key(signature, band, first, last):  # type: ignore[no-untyped-def]
    value = np.uint64(band + 1) * np.uint64(0x9E3779B97F4A7C15)
    for k in range(first, last):
        value = (value ^ np.uint64(signature[k])) * np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(31)
    return value


@njit(cache=True, nogil=True)
def _settle(order, borders, signatures, least, starts, leader, equal):  # type: ignore[no-untyped-def]
    bands = len(starts) - 1
    for cluster in range(len(borders) - 1):
        members = order[borders[cluster] : borders[cluster + 1]]
        size = len(members)
        indexed = size > FEW
        kept = np.empty(size, np.int64)
        asked = np.full(size, -1, np.int64)  # the last member that a copy was compared with
        slots = 1
        while indexed and slots < 4 * size:
            slots *= 2
        # Chains of a hash table: an entry is a copy's number times `bands` plus a band.
        heads = np.full(slots, -1, np.int64)
        following = np.empty(size * bands if indexed else 0, np.int64)
        keys = np.empty(size * bands if indexed else 0, np.uint64)
        copies = 0
        for m in range(size):
            mine = signatures[members[m]]
            best, shared = copies, len(mine)
            if not indexed:
                for c in range(copies):
                    count = _equal(mine, signatures[kept[c]])
                    if count >= least:
                        best, shared = c, count
                        break
            for band in range(bands if indexed else 0):
                key = _band_key(mine, band, starts[band], starts[band + 1])
                entry = heads[np.int64(key & np.uint64(slots - 1))]
                while entry >= 0:
                    c = entry // bands
                    if keys[entry] == key and c < best and asked[c] != m:
                        asked[c] = m
                        count = _equal(mine, signatures[kept[c]])
                        if count >= least:
                            best, shared = c, count
                    entry = following[entry]
            if best == copies:
                kept[copies] = members[m]
                for band in range(bands if indexed else 0):
                    key = _band_key(mine, band, starts[band], starts[band + 1])
                    slot, entry = np.int64(key & np.uint64(slots - 1)), copies * bands + band
                    keys[entry], following[entry], heads[slot] = key, heads[slot], entry
                copies += 1
            leader[members[m]], equal[members[m]] = kept[best], shared
