"""Documents that are text already (papers, patents, books): JSON Lines or Parquet, a document a row, or a file each."""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from ilm_ray.base.jsonl import utf8_bytes
from ilm_ray.base.tables import TABLES, read_table
from ilm_ray.data.web.format.charset import decode

MAX_BYTES = 64 << 20  # of a row or file: some hundred times the Bible would not be one document
_DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class PlainText:
    """A text, with its title in front if it has one. `number` is its row in the file."""

    number: int
    url: str
    date: str
    charset: str
    text: str
    size: int  # bytes of its row or file; more than MAX_BYTES: then `text` is empty
    title: str = ""


def read_texts(stream: BinaryIO, path: str, text_field: str, counts: Counter[str]) -> Iterator[PlainText]:
    """Texts of a file whose name tells its kind: .jsonl (also packed: .gz, .zst), .parquet, .arrow or .txt.

    Rows may have `url` (else `<path>#<row>`), `date` and `title`. `counts` gains: document, malformed (a row that is no
    JSON object with a text), truncated (a packed file that breaks off) and skipped_bytes_truncated.
    """
    if path.endswith(".txt"):
        counts["document"] += 1
        yield _of_file(stream, path)
        return
    if path.endswith(TABLES):
        yield from _of_table(stream, path, text_field, counts)
        return
    number = 0
    lines = _unpacked(stream, path)
    try:
        while line := lines.readline(MAX_BYTES + 1):
            size = len(line)
            while not line.endswith(b"\n") and size > MAX_BYTES and (rest := lines.readline(MAX_BYTES)):
                size += len(rest)
                line = line[:1] + rest[-1:]
            if size > MAX_BYTES:
                counts["document"] += 1
                yield PlainText(number, f"{path}#{number}", "", "utf-8", "", size)
            elif line.strip():
                document = _of_row(line, number, path, text_field)
                counts["malformed" if document is None else "document"] += 1
                if document is not None:
                    yield document
            number += 1
    except _DAMAGE:
        counts["truncated"] += 1
        position = stream.tell()
        counts["skipped_bytes_truncated"] += stream.seek(0, 2) - position


def _of_file(stream: BinaryIO, path: str) -> PlainText:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return PlainText(0, path, "", "utf-8", "", stream.seek(0, 2))
    text, charset = decode(data, None)
    return PlainText(0, path, "", charset, text, len(data))


def _of_table(stream: BinaryIO, path: str, text_field: str, counts: Counter[str]) -> Iterator[PlainText]:
    try:
        for number, row in enumerate(read_table(stream, path)):
            document = _of_object(row, number, path, text_field, utf8_bytes(str(row.get(text_field, ""))))
            counts["malformed" if document is None else "document"] += 1
            if document is not None:
                yield document
    except ValueError:  # all of a Parquet file hangs on its end
        counts["truncated"] += 1
        counts["skipped_bytes_truncated"] += stream.seek(0, 2)


def _of_row(line: bytes, number: int, path: str, text_field: str) -> PlainText | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return _of_object(row, number, path, text_field, len(line))


def _of_object(row: Any, number: int, path: str, text_field: str, size: int) -> PlainText | None:
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        return None
    url, date, title = (row[name] if isinstance(row.get(name), str) else "" for name in ("url", "date", "title"))
    title = title.strip()
    if title and not text.lstrip().startswith(title):
        text = f"{title}\n\n{text}"
    return PlainText(number, url or f"{path}#{number}", date, "utf-8", text, size, title)


def _unpacked(stream: BinaryIO, path: str) -> Any:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=stream)
    if path.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
    return stream
