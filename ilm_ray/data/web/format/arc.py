"""Records of an ARC file without compression, also behind one whose length is wrong.

An ARC record is a line of fields (address, IP, date, type, ..., length) and a block of that length. Where no record
begins behind a block, the length is wrong, and the block goes to the next line that has such fields.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

_SCHEME, _HOST = rb"[a-z][a-z0-9+.-]{1,20}:", rb"(?:[0-9a-fA-F.:]+|-)"
_LINE = re.compile(rb"(" + _SCHEME + rb"[^\n]*?) " + _HOST + rb" (\d{8,20}) (?:[^\n]* )?([^\s]{1,20})\r?\n")
_STARTS = re.compile(rb"\n" + _SCHEME + rb"[^\n]*? " + _HOST + rb" \d{8,20} ")
_LONGEST_LINE = 1 << 16
_CHUNK, _GAP = 1 << 20, 16


@dataclass(frozen=True)
class ArcRecord:
    """A record: where its line begins and its block ends, and a reader of the block's bytes."""

    offset: int
    end: int
    url: str
    date: str
    length: int  # of the block: as the line says, or up to the next record where that is wrong
    read: Callable[[int], bytes]


def begins_arc(head: bytes) -> bool:
    """Whether the file begins like an ARC file without compression."""
    return head.lstrip()[:11].lower() == b"filedesc://"


def read_arc(stream: BinaryIO) -> Iterator[ArcRecord]:
    """Records from the stream's position on; a record's block is lost when the next one is asked for."""
    start, size = stream.tell(), stream.seek(0, 2)
    line = _line(stream, start)
    while start < size:
        if line is None:
            found = _next(stream, start)
            if found is None:
                return
            start, line = found
        block = start + len(line[0])
        end = block + int(line[3]) if line[3].isdigit() else None
        after = _behind(stream, end) if end is not None and end < size else None
        if after is None and end != size:  # no record begins there
            after = _next(stream, block - 1)
            end = end if after is None else after[0]
        end = size if end is None else end
        stream.seek(block)
        yield ArcRecord(
            start,
            min(end, size),
            line[1].decode("utf-8", "replace"),
            iso_date(line[2].decode()),
            end - block,
            _reader(stream, min(end, size) - block),
        )
        if after is None:
            return
        start, line = after


def _line(stream: BinaryIO, position: int) -> re.Match[bytes] | None:
    """The fields of a record that begins here."""
    stream.seek(position)
    return _LINE.match(stream.readline(_LONGEST_LINE))


def _behind(stream: BinaryIO, position: int) -> tuple[int, re.Match[bytes]] | None:
    """The record behind the line breaks at `position`."""
    stream.seek(position)
    gap = stream.read(_GAP)
    start = position + len(gap) - len(gap.lstrip(b"\r\n"))
    line = _line(stream, start)
    return None if line is None else (start, line)


def _next(stream: BinaryIO, position: int) -> tuple[int, re.Match[bytes]] | None:
    """The first record that begins on a line of its own behind `position`."""
    stream.seek(position)
    kept = b""
    while chunk := stream.read(_CHUNK):
        window = kept + chunk
        base = position - len(kept)
        position += len(chunk)
        for match in _STARTS.finditer(window):
            start = base + match.start() + 1
            if (line := _line(stream, start)) is not None:
                return start, line
        kept = window[-_LONGEST_LINE:]
        stream.seek(position)
    return None


def _reader(stream: BinaryIO, left: int) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        nonlocal left
        data = stream.read(min(size, left))
        left -= len(data)
        return data

    return read


def iso_date(digits: str) -> str:
    """ARC's YYYYMMDDhhmmss as WARC writes it; "" where it is none."""
    try:
        return datetime.strptime(digits[:14], "%Y%m%d%H%M%S").strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""
