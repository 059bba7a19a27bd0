"""Token shards: flat tokens, document borders, ids, weights, byte counts and provenance; read through memory maps."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ilm_ray.base.files import temporary_path
from ilm_ray.base.framed import FramedWriter, read_framed_row
from ilm_ray.base.jsonl import JsonObject

DOCUMENTS = ".documents.jsonl.zst"
FORMAT = 2  # part of the stage's settings, so that shards of another form are written anew


class ShardWriter:
    """`with ShardWriter(folder, number) as out: out.add(tokens, row)`: tokens go to disk as they come.

    Files are renamed at the end, and not after an error; the documents file last: a shard without it does not exist
    for a reader. `paths`: the shard's files.
    """

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"shard-{number:05d}"
        arrays = ("tokens", "offsets", "bytes", "ids", "weights", "frames")
        self._at = {name: stem.with_suffix(f".{name}.npy") for name in arrays} | {
            "documents": stem.with_suffix(DOCUMENTS)
        }
        self.paths = list(self._at.values())
        self.tokens = self.bytes = 0
        self._offsets, self._bytes, self._ids, self._weights = [0], list[int](), list[int](), list[float]()

    @property
    def documents(self) -> int:
        return len(self._ids)

    def __enter__(self) -> "ShardWriter":
        self._temporary = {name: temporary_path(path) for name, path in self._at.items()}
        self._out = self._temporary["tokens"].open("wb")
        _write_header(self._out, 0)
        self._rows = FramedWriter(self._temporary["documents"])
        return self

    def add(self, tokens: Sequence[int] | np.ndarray, size: int, row: JsonObject, weight: float = 1.0) -> None:
        """One document: its token ids, the UTF-8 bytes of its text, its provenance (`id` among it), and how often a
        pass over the source draws it."""
        self._out.write(np.asarray(tokens, dtype=np.uint32).tobytes())
        self._rows.write(row)
        self.tokens, self.bytes = self.tokens + len(tokens), self.bytes + size
        self._offsets.append(self.tokens)
        self._bytes.append(size)
        self._ids.append(row["id"])
        self._weights.append(weight)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            frames = self._rows.close()
            with self._out:
                _write_header(self._out, self.tokens)
            if error is None:
                self._save(frames)
        finally:
            for path in self._temporary.values():
                path.unlink(missing_ok=True)

    def _save(self, frames: np.ndarray) -> None:
        arrays: dict[str, np.ndarray] = {
            "offsets": np.array(self._offsets, np.int64),
            "bytes": np.array(self._bytes, np.int64),
            "ids": np.array(self._ids, np.int64),
            "weights": np.array(self._weights, np.float32),
            "frames": frames,
        }
        for name, array in arrays.items():
            with self._temporary[name].open("wb") as out:
                np.save(out, array)
        for name, path in self._at.items():
            self._temporary[name].replace(path)


def write_shard(folder: Path, number: int, documents: Iterable[dict[str, Any]]) -> list[Path]:
    """Write one shard; each document has `tokens` (ids), `bytes`, `id`, maybe `weight`; all else is provenance."""
    with ShardWriter(folder, number) as out:
        for document in documents:
            row = {key: value for key, value in document.items() if key not in ("tokens", "bytes", "weight")}
            out.add(document["tokens"], document["bytes"], row, document.get("weight", 1.0))
    return out.paths


class TokenSource:
    """All documents of one source and split, in the order of their shards.

    Arrays with one entry a document: `lengths` (tokens), `ids`, `weights` (how often a pass draws it).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shards = [p.name.removesuffix(DOCUMENTS) for p in sorted(folder.glob(f"*{DOCUMENTS}"))]
        self._tokens = [_map(folder / f"{stem}.tokens.npy") for stem in self.shards]
        self._offsets = [np.load(folder / f"{stem}.offsets.npy") for stem in self.shards]
        self.ids = self._joined("ids", np.int64)
        self.weights = self._joined("weights", np.float32)
        self.lengths: np.ndarray = np.concatenate([np.empty(0, np.int64), *(np.diff(o) for o in self._offsets)])
        self._first = np.cumsum([0, *(len(o) - 1 for o in self._offsets)])
        self.total_tokens = int(self.lengths.sum())
        self.total_bytes = int(self._joined("bytes", np.int64).sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, i: int) -> np.ndarray:
        """uint32 token ids of document i, begin and end tokens included."""
        shard, inside = self._locate(i)
        start, stop = self._offsets[shard][inside : inside + 2]
        return self._tokens[shard][start:stop]

    def place(self, i: int) -> tuple[int, int]:
        """(number of the shard among `shards`, first token within it) of document i."""
        shard, inside = self._locate(i)
        return shard, int(self._offsets[shard][inside])

    def provenance(self, i: int) -> JsonObject:
        """The origin of document i: id, url, dump; of code also its repository and files."""
        shard, inside = self._locate(i)
        stem = self.shards[shard]
        frames = np.load(self._folder / f"{stem}.frames.npy", mmap_mode="r")
        return read_framed_row(self._folder / f"{stem}{DOCUMENTS}", frames, inside)

    def marks(self, folder: Path, name: str) -> np.ndarray:
        """bool, one entry a document, from `folder`/shard-NNNNN.`name`.npy, one file a shard.

        Raises OSError where one is missing, ValueError where it belongs to another shard.
        """
        parts = [np.empty(0, bool)]
        for stem, offsets in zip(self.shards, self._offsets, strict=True):
            path = folder / f"{stem}.{name}.npy"
            part = np.load(path)
            if part.shape != (len(offsets) - 1,) or part.dtype != bool:
                raise ValueError(f"{path} has {part.dtype} {part.shape} for {len(offsets) - 1} documents")
            parts.append(part)
        return np.concatenate(parts)

    def _joined(self, name: str, kind: type[np.generic]) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *(np.load(self._folder / f"{s}.{name}.npy") for s in self.shards)])

    def _locate(self, i: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, i, side="right")) - 1
        return shard, i - int(self._first[shard])


def _write_header(out: BinaryIO, tokens: int) -> None:
    """Header of a .npy file of uint32. numpy leaves room for a growing length, so it has the same size for any."""
    out.seek(0)
    np.lib.format.write_array_header_1_0(out, {"descr": "<u4", "fortran_order": False, "shape": (tokens,)})


def _map(path: Path) -> np.ndarray:
    # An empty file cannot be mapped; numpy then needs a plain read.
    return np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
