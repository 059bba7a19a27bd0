"""Token shards: flat tokens, document borders, byte counts and provenance; read through memory maps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.corpus.files import temporary_path
from ilm_ray.corpus.jsonl import read_jsonl, write_jsonl


def write_shard(folder: Path, number: int, documents: Iterable[dict[str, Any]]) -> list[Path]:
    """Write one shard; each document has `tokens` (ints), `bytes` (UTF-8 length of its text), `id`, `url`, `dump`.

    The documents file is renamed last: a shard without it does not exist for a reader.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens, sizes, rows = [], [], []
    for document in documents:
        tokens.append(np.asarray(document["tokens"], dtype=np.uint32))
        sizes.append(document["bytes"])
        rows.append({key: document[key] for key in ("id", "url", "dump")})
    stem = folder / f"shard-{number:05d}"
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64)
    paths = [
        _save(stem.with_suffix(".tokens.npy"), np.concatenate([np.empty(0, np.uint32), *tokens])),
        _save(stem.with_suffix(".offsets.npy"), offsets),
        _save(stem.with_suffix(".bytes.npy"), np.array(sizes, dtype=np.int64)),
        stem.with_suffix(".documents.jsonl.zst"),
    ]
    write_jsonl(paths[-1], rows)
    return paths


class TokenSource:
    """All documents of one source and split, in the order of their shards. `lengths`: tokens of each document."""

    def __init__(self, folder: Path) -> None:
        stems = [p.name.removesuffix(".documents.jsonl.zst") for p in sorted(folder.glob("*.documents.jsonl.zst"))]
        self._documents = [folder / f"{stem}.documents.jsonl.zst" for stem in stems]
        # An empty file cannot be mapped; numpy then needs a plain read.
        self._tokens = [_map(folder / f"{stem}.tokens.npy") for stem in stems]
        self._offsets = [np.load(folder / f"{stem}.offsets.npy") for stem in stems]
        self._bytes = np.concatenate(
            [np.empty(0, np.int64), *(np.load(folder / f"{stem}.bytes.npy") for stem in stems)]
        )
        self.lengths: np.ndarray = np.concatenate([np.empty(0, np.int64), *(np.diff(o) for o in self._offsets)])
        self._first = np.cumsum([0, *(len(o) - 1 for o in self._offsets)])
        self.total_tokens = int(self.lengths.sum())
        self.total_bytes = int(self._bytes.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int) -> np.ndarray:
        """uint32 token ids of document i, begin and end tokens included."""
        shard, inside = self._locate(i)
        start, stop = self._offsets[shard][inside : inside + 2]
        return self._tokens[shard][start:stop]

    def byte_count(self, i: int) -> int:
        """UTF-8 bytes of document i's text."""
        return int(self._bytes[i])

    def provenance(self, i: int) -> dict[str, Any]:
        """Where document i comes from: id, url, dump."""
        shard, inside = self._locate(i)
        for number, row in enumerate(read_jsonl(self._documents[shard])):
            if number == inside:
                return row
        raise IndexError(f"{self._documents[shard]} ends before row {inside}")

    def _locate(self, i: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, i, side="right")) - 1
        return shard, i - int(self._first[shard])


def _save(path: Path, array: np.ndarray) -> Path:
    temporary = temporary_path(path)
    with temporary.open("wb") as out:
        np.save(out, array)
    temporary.replace(path)
    return path


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
