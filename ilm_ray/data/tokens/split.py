"""Which documents are held out: by a hash of their id, so that the answer is the same in every run and layout."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

KEYS = 2**63
# About 8,000 tokens at four bytes each: fewer give held-out figures that jump about.
MIN_BYTES = 32_000
# More than this share of a small source is not held out for the sake of MIN_BYTES.
MAX_SHARE = 0.2


@dataclass(frozen=True)
class Candidates:
    """A source's size, and its documents with the smallest keys as (key, bytes): at least MIN_BYTES of them."""

    documents: int
    size: int
    smallest: list[tuple[int, int]]


def split_key(identity: int | str) -> int:
    """Pseudo-random number in [0, KEYS) that belongs to a document's id."""
    return int.from_bytes(hashlib.blake2b(str(identity).encode(), digest_size=8).digest()) >> 1


def candidates(documents: Iterable[tuple[int, int]]) -> Candidates:
    """From (key, bytes) of any documents. Its counts stay small, so files can be summed up and merged."""
    ordered = sorted(documents)
    return _trimmed(len(ordered), sum(size for _, size in ordered), ordered)


def merge(parts: Iterable[Candidates]) -> Candidates:
    """The candidates of all parts together."""
    parts = list(parts)
    ordered = sorted(pair for part in parts for pair in part.smallest)
    return _trimmed(sum(p.documents for p in parts), sum(p.size for p in parts), ordered)


def heldout_limit(source: Candidates, share: float) -> int:
    """Documents with a key below this number are held out.

    That is `share` of all documents, or more where these come to less than MIN_BYTES: then the next ones in the order
    of their keys up to MAX_SHARE of the source, and one in any case. A single document is not held out.
    """
    if source.documents < 2:
        return 0
    limit, held = int(share * KEYS), 0
    for number, (key, size) in enumerate(source.smallest):
        if key >= limit:
            enough = held >= MIN_BYTES or held + size > MAX_SHARE * source.size
            if number and enough:
                break
            limit = key + 1
        held += size
    return limit


def _trimmed(documents: int, size: int, ordered: list[tuple[int, int]]) -> Candidates:
    kept, held = list[tuple[int, int]](), 0
    for key, length in ordered:
        if held >= MIN_BYTES:
            break
        kept.append((key, length))
        held += length
    return Candidates(documents, size, kept)
