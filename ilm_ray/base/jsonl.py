"""JSON Lines with zstd, the form of every data stage's documents."""

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import orjson
import zstandard

from ilm_ray.base.files import sha256_of as sha256_of
from ilm_ray.base.files import temporary_path

JsonObject = dict[str, Any]
_T = TypeVar("_T")
_SIP = 1 << 12  # packed bytes that are unpacked at once: they can become 128 MiB
LONGEST_LINE = 1 << 28  # bytes, of a packed file: one of a kilobyte may hold a line that fills the memory


class JsonlWriter:
    """`with JsonlWriter(path) as out: out.write(row)`: zstd if `path` ends in .zst; the file appears at the end.

    A reader never sees half a file: the rename comes last, and never after an error. The bytes depend on the rows
    alone.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._temporary = temporary_path(path)

    def __enter__(self) -> "JsonlWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._raw = self._temporary.open("wb")
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        zstd = self.path.suffix == ".zst"
        self._out: Any = compressor.stream_writer(self._raw, closefd=False) if zstd else io.BufferedWriter(self._raw)
        return self

    def write(self, row: JsonObject) -> None:
        self._out.write(encoded(row) + b"\n")
        self.rows += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            with self._raw:
                self._out.close()
            if error is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[JsonObject]) -> int:
    """Write `rows` to `path` (see `JsonlWriter`); returns their number."""
    with JsonlWriter(path) as out:
        for row in rows:
            out.write(row)
    return out.rows


def read_jsonl(path: Path) -> Iterator[JsonObject]:
    """Rows of a JSON Lines file, zstd or plain. Raises OSError, or ValueError where the file is damaged or cut.

    A row is any JSON value: the caller checks for objects.
    """
    with path.open("rb") as raw:
        for line in _lines(raw, path) if path.suffix == ".zst" else raw:
            if line.strip():
                yield decoded(line)


def batches(rows: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """`size` rows after `size` rows, and the rest."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def decoded(line: bytes) -> Any:
    """The value of one line. Raises json.JSONDecodeError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # Strict where json is lenient: lone surrogates and NaN occur in files that others wrote.
        try:
            return json.loads(line)
        except RecursionError:
            raise json.JSONDecodeError("nested too deeply", "", 0) from None


def utf8_bytes(text: str) -> int:
    """Size of a text in UTF-8; a code point without one counts as one byte."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def encoded(row: JsonObject) -> bytes:
    """The line of one row, without its end. A code point without UTF-8 becomes "?"."""
    try:
        return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # a lone surrogate, which has no UTF-8
        return json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")


def _lines(raw: IO[bytes], path: Path) -> Iterator[bytes]:
    """Lines of a zstd file. A stream reader would take a cut file for a shorter one."""
    begun, size = list[bytes](), 0
    for part in _unpacked(raw, path):
        first, *more = part.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > LONGEST_LINE:
            raise ValueError(f"{path} has a line of more than {LONGEST_LINE} bytes")
        if more:
            yield b"".join(begun)
            yield from more[:-1]
            begun, size = [more[-1]], len(more[-1])
    yield b"".join(begun)


def _unpacked(raw: IO[bytes], path: Path) -> Iterator[bytes]:
    packed = zstandard.ZstdDecompressor().decompressobj()
    try:
        while chunk := raw.read(_SIP):
            while chunk:
                if packed.eof:
                    packed = zstandard.ZstdDecompressor().decompressobj()
                yield packed.decompress(chunk)
                chunk = packed.unused_data if packed.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not packed.eof:
        raise ValueError(f"{path} is cut: its last zstd frame does not end")
