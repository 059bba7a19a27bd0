"""Documents without end, with planted clusters of near-duplicates: every word follows from a seed and its place alone.

A cluster has 2 to 50 members. One is the base; a copy is the base with a share of its words replaced, which is 0 for
one copy in five and else anything up to 12%. So any process can write any document, and the true similarity of each is
known. Words are drawn as in natural text (Zipf).
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.sources import Source

NGRAM = 5
SIZES = (2, 50)
MAX_CHANGED = 0.12
EXACT_SHARE = 0.2  # of the copies
_BATCH = 1000
_VOCABULARY, _TABLE_BITS = 20_000, 20


@dataclass(frozen=True)
class Planted:
    """The plan of n documents. Documents of the same content are a cluster."""

    content: np.ndarray  # int64 [n]: from which content a document is made
    changed: np.ndarray  # float64 [n]: share of its words that are replaced; 0 for a base
    length: np.ndarray  # int64 [n]: words


def plant(documents: int, words: int, seed: int, clustered: float = 0.4) -> Planted:
    """A share `clustered` of the documents in clusters, anywhere; `words` words each, give or take a quarter."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(SIZES[0], SIZES[1] + 1, documents)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), clustered * documents))]
    members = int(sizes.sum())
    content = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), len(sizes) + np.arange(documents - members)])
    base = np.ones(documents, bool)
    base[:members] = np.diff(content[:members], prepend=-1) > 0
    changed = np.where(base | (rng.random(documents) < EXACT_SHARE), 0.0, rng.random(documents) * MAX_CHANGED)
    length = rng.integers(words * 3 // 4, words * 5 // 4 + 1, documents)[content]
    place = rng.permutation(documents)
    return Planted(content[place], changed[place], length[place])


def texts(planted: Planted, first: int, last: int, seed: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches of (texts, Jaccard similarity of 5-grams of each to its content's base) of documents [first, last)."""
    vocabulary, table = _vocabulary(seed)
    for start in range(first, last, _BATCH):
        rows = np.arange(start, min(start + _BATCH, last))
        length = planted.length[rows]
        places = np.arange(length.max(), dtype=np.uint64)
        base = table[_bits(planted.content[rows], places, seed, 0) >> np.uint64(64 - _TABLE_BITS)]
        other = table[_bits(rows, places, seed, 1) >> np.uint64(64 - _TABLE_BITS)]
        replaced = (_bits(rows, places, seed, 2) >> np.uint64(11)) * 2.0**-53 < planted.changed[rows, None]
        chosen = np.where(replaced, other, base)
        documents = [" ".join([vocabulary[w] for w in row[:n].tolist()]) for row, n in zip(chosen, length, strict=True)]
        yield documents, _jaccard(chosen == base, length)


def write_corpus(folder: Path, planted: Planted, sources: list[Source], seed: int) -> np.ndarray:
    """One file a source, `folder`/cleaned/kept-NNNNN.jsonl.zst, by two processes; similarities [documents]."""
    borders = np.linspace(0, len(planted.content), len(sources) + 1).astype(int).tolist()
    with ProcessPoolExecutor(2) as pool:
        write = partial(_write_file, folder, planted, seed)
        return np.concatenate(list(pool.map(write, sources, borders[:-1], borders[1:])))


def _write_file(folder: Path, planted: Planted, seed: int, source: Source, first: int, last: int) -> np.ndarray:
    similar = list[np.ndarray]()

    def rows() -> Iterator[dict[str, Any]]:
        number = 0
        for batch, alike in texts(planted, first, last, seed):
            similar.append(alike)
            for text in batch:
                url = f"https://generated.test/{first + number}"
                document = Document(source.document_id(number), url, source.dump, source.source, language="en")
                document.set_text(text)
                yield document.row()
                number += 1

    write_jsonl(folder / "cleaned" / f"kept-{source.index:05d}.jsonl.zst", rows())
    return np.concatenate(similar)


def _vocabulary(seed: int) -> tuple[list[str], np.ndarray]:
    """(words, int32 [2^20] word numbers: each as often as its rank of frequency has it)."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    words = dict[str, None]()
    while len(words) < _VOCABULARY:
        words["".join(rng.choice(letters, rng.integers(2, 10)))] = None
    weight = np.cumsum(1.0 / np.arange(10, _VOCABULARY + 10))  # Zipf-Mandelbrot
    at = (np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS) * weight[-1]
    return list(words), np.searchsorted(weight, at).astype(np.int32)


def _bits(rows: np.ndarray, places: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """uint64 [rows, places] of random bits that follow from the arguments (SplitMix64's finaliser)."""
    key = rows.astype(np.uint64)[:, None] * np.uint64(1 << 16) + places[None, :]
    offset = np.uint64(stream * 0xD1B54A32D192ED03 % 2**64)
    key = (key + np.uint64(1 + seed)) * np.uint64(0x9E3779B97F4A7C15) + offset
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(key ^ (key >> np.uint64(31)))


def _jaccard(same: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Similarity of the 5-grams where `same` [documents, places] says which words are those of the base."""
    inside = np.arange(same.shape[1])[None, :] < length[:, None]
    whole = np.lib.stride_tricks.sliding_window_view(same & inside, NGRAM, axis=1).all(axis=2).sum(axis=1)
    return np.asarray(whole / (2 * (length - NGRAM + 1) - whole))
