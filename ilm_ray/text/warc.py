"""Reading captures out of WARC files that are not always whole (Format, report section 3.1)."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord

from ilm_ray.text.inputs import looks_like_warc

HTML_TYPES = ("text/html", "application/xhtml+xml")
# Where a record may begin: a compressed member, or the version line after the blank lines of the last record.
_STARTS = re.compile(rb"\x1f\x8b\x08|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\nWARC/1")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Capture:
    """The HTML body of one response, as sent. `charset` is the HTTP header's, if it names one."""

    url: str
    date: str
    charset: str | None
    body: bytes
    size: int  # bytes of the body; more than len(body) where the cap cut it


def read_captures(stream: BinaryIO, max_bytes: int, counts: Counter[str]) -> Iterator[Capture]:
    """HTML responses of a WARC stream, in order, at most `max_bytes` of each body.

    Damaged records are counted and skipped, reading goes on with the next one. `counts` gains: response, request,
    revisit, other_record, non_html, empty, malformed (undecodable), truncated (shorter than its Content-Length).
    """
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        delivered = False
        records = ArchiveIterator(stream, parse_http=False, quirks_mode=True)
        while True:
            try:
                record = next(records, None)
            except OSError:  # fastwarc cannot go on behind a member that does not inflate: begin again at the next one
                if not delivered:
                    counts["malformed"] += 1
                start = _next_start(stream, start + 1)
                break
            if record is None:
                if not delivered:
                    counts["truncated"] += 1  # a record begins here, and the file ends before its header does
                start = _next_start(stream, start + 1, packed_only=True)
                break
            delivered, start = True, record.stream_pos
            capture = _capture(record, max_bytes, counts)
            if capture is not None:
                yield capture


def _capture(record: WarcRecord, max_bytes: int, counts: Counter[str]) -> Capture | None:
    kind = str(record.record_type)
    headless = record.headers.get("Content-Length") is None  # it closes the WARC header: the file ends inside
    if headless:
        counts["truncated"] += 1
    counts[kind if kind in ("response", "request", "revisit") else "other_record"] += 1
    if kind != "response":
        return None
    try:
        # A body longer than the block is cut short; fastwarc reads it as far as it goes.
        record.parse_http(auto_decode="all", quirks_mode=True)
        content_type, charset = record.http_content_type, record.http_charset
        body = record.reader.read(max_bytes + 1)
        size = len(body) + (record.reader.consume() if len(body) > max_bytes else 0)
    except (OSError, ValueError):
        counts["malformed"] += 1
        return None
    url = record.headers.get("WARC-Target-URI")
    if not headless and _is_short(record, size):
        counts["truncated"] += 1
    elif not headless and not url:
        counts["malformed"] += 1
    if not url:
        return None
    if not size:
        counts["empty"] += 1
        return None
    if not _is_html(content_type, body):
        counts["non_html"] += 1
        return None
    return Capture(url.strip("<>"), record.headers.get("WARC-Date") or "", charset, body[:max_bytes], size)


def _is_html(content_type: str | None, body: bytes) -> bool:
    if content_type:
        return content_type.strip().lower() in HTML_TYPES
    head = body[:1024].lower()
    return b"<html" in head or b"<!doctype html" in head


def _is_short(record: WarcRecord, body_size: int) -> bool:
    """Is the record's block shorter than it says? Only plain bodies can tell: decoding changes the length."""
    headers = record.http_headers
    if headers is None or headers.get("Content-Encoding") or headers.get("Transfer-Encoding"):
        return False
    head = len(headers.status_line_bytes or b"") + 2
    head += sum(len(name) + len(value) + 4 for name, value in headers.items_bytes())
    # Header folding and spacing may differ by some bytes from what was parsed; a cut member loses far more.
    return record.content_length - head - body_size > 64


def _next_start(stream: BinaryIO, position: int, packed_only: bool = False) -> int | None:
    """Offset of the next record (or only: compressed member) at or behind `position`; None where no more follow."""
    kept = b""
    stream.seek(position)
    while chunk := stream.read(_CHUNK):
        window = kept + chunk
        base = position - len(kept)
        for match in _STARTS.finditer(window):
            if packed_only and match.group().startswith(b"\n"):
                continue
            start = base + match.start() + (1 if match.group().startswith(b"\n") else 0)
            here = stream.tell()
            stream.seek(start)
            found = looks_like_warc(stream.read(4096))
            stream.seek(here)
            if found:
                return start
        position += len(chunk)
        kept = window[-8:]
    return None
