"""Records of a web archive, of a damaged one too: WARC and ARC, plain, gzip, zstd or lz4, and WACZ (a zip of them).

fastwarc reads the records that it can. Where it stops, warcio is tried on the same spot (it knows compressed ARC,
folded header lines and some more), then reading begins again at the next place that looks like a record. Offsets only
grow, so nothing comes twice. Plain ARC has a reader of its own (`arc.py`): neither finds a record again behind a wrong
length.
"""

import lzma
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import fastwarc.warc
import warcio.archiveiterator
import zstandard
from warcio.exceptions import ArchiveLoadFailed

from ilm_ray.data.web.format.arc import begins_arc, iso_date, read_arc

_GZIP, _ZSTD, _ZSTD_DICTIONARY, _LZ4 = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18", b"\x04\x22\x4d\x18"
_ZIP = b"PK\x03\x04"
_PACKED = (_GZIP, _ZSTD, _ZSTD_DICTIONARY, _LZ4)
# Where a record may begin: a compressed member, or the version line behind the end of the last record.
_STARTS = re.compile(rb"\x1f\x8b\x08|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\nWARC/[01]")
_CHUNK, _HEAD = 1 << 20, 4096
_FIRST = 4096  # unpacked bytes that are looked at to tell what a member is
_SIP = 1 << 10  # packed bytes given to a decoder at once: they can become 32 MiB
_SLACK = 64  # bytes between two records that are nobody's loss: blank lines, folded header lines
_IN_ZIP = re.compile(r"\.w?arc(\.(gz|zst|lz4))?$")
# What the readers are known to raise on damaged files; warcio's parsers check little.
_ERRORS = (ArchiveLoadFailed, OSError, EOFError, ValueError, AttributeError, TypeError, IndexError, zlib.error)
# And zipfile on damaged or encrypted ones, which believes all offsets.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, IndexError, OverflowError),
)


@dataclass(frozen=True)
class Record:
    """One record. `read(n)` gives the next bytes of its block, HTTP header included; it may raise OSError."""

    offset: int  # in the file, of the compressed member where there is one
    end: int | None  # where its block ends in a file without compression, if that is known
    kind: str  # response, request, ..., as WARC-Type names it; of ARC: arc_header, response
    url: str
    date: str  # as the archive writes it
    record_id: str
    content_type: str  # of the block
    length: int | None  # bytes of the block; None where the header does not say
    read: Callable[[int], bytes]


def read_records(stream: BinaryIO, counts: Counter[str]) -> Iterator[Record]:
    """All records of a seekable stream, in order; a record's block is lost when the next one is asked for.

    `counts` gains skipped_bytes_<why>: `malformed` (no record could be made of them), `truncated` (a record begins, the
    file ends before its header does), `not_an_archive` (the whole file, counted under that name too), and empty_file.
    """
    head = stream.read(len(_ZIP))
    size = stream.seek(0, 2)
    if not head:
        counts["empty_file"] += 1
    elif head == _ZIP:
        yield from _of_zip(stream, size, counts)
    else:
        yield from _of_file(stream, size, counts)


def looks_like_archive(head: bytes) -> bool:
    """Whether the first bytes of a file (4 KiB are plenty) begin like an archive. An empty file may: it is cut."""
    return head.startswith(_ZIP) or begins_record(head)


def begins_record(head: bytes) -> bool:
    """Whether the bytes, plain or a gzip, zstd or lz4 frame, begin like a WARC record or an ARC file."""
    if head.startswith(_LZ4):
        # The first block of an lz4 frame begins with literals: no decoder needed for five letters.
        return b"WARC/" in head[:64]
    if head.startswith(_ZSTD_DICTIONARY):
        return True  # only WARC writers put a dictionary into a skippable frame
    try:
        if head.startswith(_GZIP):
            head = zlib.decompressobj(31).decompress(head, _FIRST)
        elif head.startswith(_ZSTD):
            head = zstandard.ZstdDecompressor().stream_reader(head).read(_FIRST)
    except (zlib.error, zstandard.ZstdError):
        return False
    head = head.lstrip()[:16].lower()
    return any(head[: len(start)] == start[: len(head)] for start in (b"warc/", b"filedesc://"))


def _of_zip(stream: BinaryIO, size: int, counts: Counter[str]) -> Iterator[Record]:
    try:
        archive = zipfile.ZipFile(stream)
        names = sorted(name for name in archive.namelist() if _IN_ZIP.search(name))
    except _ZIP_ERRORS:
        _skip(counts, "malformed", size)
        return
    if not names:
        counts["not_an_archive"] += 1
        _skip(counts, "not_an_archive", size)
    for name in names:
        try:
            with archive.open(name) as member:
                yield from read_records(member, counts)  # type: ignore[arg-type]
        except _ZIP_ERRORS:
            _skip(counts, "malformed", archive.getinfo(name).compress_size)


def _of_file(stream: BinaryIO, size: int, counts: Counter[str]) -> Iterator[Record]:
    start: int | None = 0
    skipped: Counter[str] = Counter()
    has_record = False
    while start is not None:
        last: Record | None = None
        endings: list[str] = []
        head = _at(stream, start, _HEAD)
        packed = head.startswith(_PACKED)
        # warcio takes any line of five words for an ARC record.
        readers = (_by_arc, _by_warcio) if begins_arc(head) else (_by_fastwarc, _by_warcio)
        for reader in readers if begins_record(head) else readers[:1]:
            stream.seek(start)
            try:
                for record in reader(stream):
                    if last is not None and not packed:
                        _skip(skipped, "malformed", record.offset - (last.end or record.offset))
                    last, has_record = record, True
                    yield record
                endings.append("truncated")
            except _ERRORS:
                endings.append("malformed")
            if last is not None:
                break
        why = endings[0]
        if last is None:
            resume = _next_start(stream, start + 1)
            skipped[why] += 1
            _skip(skipped, why, (size if resume is None else resume) - start)
        else:
            # A reader that ends quietly in a file without compression has been through all of it.
            resume = _next_start(stream, last.offset + 1, packed_only=why == "truncated")
            end = _member_end(stream, last.offset) if packed else last.end
            _skip(skipped, "malformed", (size if resume is None else resume) - (end or size))
        start = resume
    if has_record or begins_record(_at(stream, 0, _HEAD)):
        counts.update(skipped)
    else:
        counts["not_an_archive"] += 1
        counts["skipped_bytes_not_an_archive"] += size


def _by_fastwarc(stream: BinaryIO) -> Iterator[Record]:
    for record in fastwarc.warc.ArchiveIterator(stream, parse_http=False, quirks_mode=True):
        headers = record.headers
        length = None if headers.get("Content-Length") is None else record.content_length
        head = len(headers.status_line_bytes or b"") + 4
        head += sum(len(name) + len(value) + 4 for name, value in headers.items_bytes())
        yield Record(
            offset=record.stream_pos,
            end=None if length is None else record.stream_pos + head + length,
            kind=str(record.record_type),
            url=headers.get("WARC-Target-URI") or "",
            date=headers.get("WARC-Date") or "",
            record_id=headers.get("WARC-Record-ID") or "",
            content_type=headers.get("Content-Type") or "",
            length=length,
            read=record.reader.read,
        )


def _by_arc(stream: BinaryIO) -> Iterator[Record]:
    for record in read_arc(stream):
        kind = "arc_header" if record.url.startswith("filedesc:") else "response"
        yield Record(record.offset, record.end, kind, record.url, record.date, "", "", record.length, record.read)


class _Warcio(warcio.archiveiterator.ArchiveIterator):
    INC_RECORD: ClassVar[str] = ""  # a warning that it prints on stderr


def _by_warcio(stream: BinaryIO) -> Iterator[Record]:
    records = _Warcio(stream, no_record_parse=True)
    for record in records:
        headers = record.rec_headers
        arc = record.format == "arc"
        yield Record(
            offset=records.offset,  # get_record_offset() would read the record to its end
            end=None,
            kind=record.rec_type or "unknown",
            url=headers.get_header("uri" if arc else "WARC-Target-URI") or "",
            date=iso_date(headers.get_header("archive-date") or "") if arc else headers.get_header("WARC-Date") or "",
            record_id=headers.get_header("WARC-Record-ID") or "",
            # An ARC header names the type of the page; its block is an HTTP response like that of a WARC record.
            content_type="" if arc else headers.get_header("Content-Type") or "",
            length=record.length,
            read=record.raw_stream.read,
        )


def _next_start(stream: BinaryIO, position: int, packed_only: bool = False) -> int | None:
    """Offset of the next record (or only: compressed member) at or behind `position`; None where no more follow."""
    kept = b""
    stream.seek(position)
    while chunk := stream.read(_CHUNK):
        window = kept + chunk
        base = position - len(kept)
        for match in _STARTS.finditer(window):
            plain = match.group().startswith(b"\n")
            start = base + match.start() + plain
            if not (plain and packed_only) and begins_record(_at(stream, start, _HEAD)):
                return start
        position += len(chunk)
        stream.seek(position)
        kept = window[-8:]
    return None


def _member_end(stream: BinaryIO, offset: int) -> int | None:
    """End of the gzip or zstd member at `offset`; None where it does not end, or is of another kind."""
    stream.seek(offset)
    chunk = stream.read(_CHUNK)
    packed: Any = zlib.decompressobj(31) if chunk.startswith(_GZIP) else zstandard.ZstdDecompressor().decompressobj()
    try:
        while chunk:
            for at in range(0, len(chunk), _SIP):
                sip = chunk[at : at + _SIP]
                packed.decompress(sip)
                offset += len(sip)
                if packed.eof:
                    return offset - len(packed.unused_data)
            chunk = stream.read(_CHUNK)
    except (zlib.error, zstandard.ZstdError):
        pass
    return None


def _at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _skip(counts: Counter[str], why: str, size: int) -> None:
    if size > _SLACK:
        counts[f"skipped_bytes_{why}"] += size
