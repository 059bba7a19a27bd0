"""Captures of web pages in an archive (Format, report section 3.1); everything else in it is counted."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ilm_ray.data.web.format.archive import Record, read_records
from ilm_ray.data.web.format.http import MAX_HEAD, content_type, decode_body, parse_response

HTML_TYPES = ("text/html", "application/xhtml+xml")
_COUNTED = ("response", "request", "revisit", "resource")
_LAST_GOOD_STATUS = 299


@dataclass(frozen=True)
class Capture:
    """The HTML body of one response, without its HTTP encodings. `charset` is the HTTP header's, if it names one."""

    url: str
    date: str
    charset: str | None
    body: bytes
    size: int  # bytes of the body; of one that the cap cut, more than the cap, and exact if it was not encoded


def read_captures(stream: BinaryIO, max_bytes: int, counts: Counter[str]) -> Iterator[Capture]:
    """HTML pages of an archive, in order, at most `max_bytes` of each body.

    Pages are responses with an HTML body and a status below 300, and resources of an HTML type. `counts` gains:
    response, request, revisit, resource, other_record (these five are all records that could be read), http_error,
    non_html, empty, malformed (its block cannot be read, or it has no URL), truncated (shorter than it says), and what
    `read_records` counts.
    """
    for record in read_records(stream, counts):
        counts[record.kind if record.kind in _COUNTED else "other_record"] += 1
        # A record that does not say how long it is has lost the end of its header, mostly with the end of the file.
        if record.length is None:
            counts["truncated"] += 1
        if record.kind in ("response", "resource"):
            capture = _capture(record, max_bytes, counts)
            if capture is not None:
                yield capture


def _capture(record: Record, max_bytes: int, counts: Counter[str]) -> Capture | None:
    limit = max_bytes + MAX_HEAD
    try:
        block = _read(record.read, limit)
    except (OSError, ValueError, AttributeError):
        counts["malformed"] += 1
        return None
    if record.length is not None and len(block) < min(record.length, limit):
        counts["truncated"] += 1
    url = record.url.strip("<> \t")
    if not url:
        counts["malformed"] += 1
        return None
    response = parse_response(block)
    if response is not None:
        if response.status is not None and response.status > _LAST_GOOD_STATUS:
            counts["http_error"] += 1
            return None
        media, charset = content_type(response.headers.get("content-type", ""))
        body = decode_body(response, max_bytes + 1)
        encoded = bool(response.encodings)
        head = len(block) - len(response.body)
    else:
        # No HTTP around it: a resource is its own body, of the type that the record names.
        media, charset = content_type(record.content_type if record.kind == "resource" else "")
        body, encoded, head = block[: max_bytes + 1], False, 0
    if not body:
        counts["empty"] += 1
        return None
    if not _is_html(media, body):
        counts["non_html"] += 1
        return None
    size = len(body)
    if size > max_bytes and not encoded and record.length is not None:
        size = max(size, record.length - head)
    return Capture(url, record.date, charset, body[:max_bytes], size)


def _is_html(media: str, body: bytes) -> bool:
    if media:
        return media in HTML_TYPES
    head = body[:1024].lower()
    return b"<html" in head or b"<!doctype html" in head


def _read(read: Callable[[int], bytes], limit: int) -> bytes:
    parts, missing = [], limit
    while missing and (part := read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
