"""JSON Lines with zstd: what every data stage writes and reads."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from ilm_ray.corpus.files import temporary_path

Row = dict[str, Any]


def write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    """Write `rows` to `path` (zstd if it ends in .zst) through a temporary name; returns the number of rows.

    A reader never sees half a file: the rename comes last. The bytes depend on the rows alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    count = 0
    try:
        with temporary.open("wb") as raw, _compressed(raw, path) as out:
            for row in rows:
                out.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace") + b"\n")
                count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of a JSON Lines file, zstd or plain. Raises OSError or json.JSONDecodeError."""
    with path.open("rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            if line.strip():
                yield json.loads(line)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _compressed(raw: Any, path: Path) -> Any:
    if path.suffix == ".zst":
        return zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False)
    return io.BufferedWriter(raw)
