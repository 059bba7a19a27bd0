"""A small WARC/1.0 writer: one gzip member per record, and the same bytes on every run.

Dates, record ids and the gzip header are functions of the input, so regenerating the corpus changes nothing.
"""

import base64
import hashlib
import uuid
import zlib
from dataclasses import dataclass

_NAMESPACE = uuid.UUID("6f1c9a52-3d0e-4b8e-9a51-0c2d4e6f8a10")


@dataclass(frozen=True)
class Record:
    """One WARC record before serialisation; `fields` are further header lines, in order."""

    kind: str
    uri: str
    date: str
    content_type: str
    block: bytes
    payload: bytes | None = None
    fields: tuple[tuple[str, str], ...] = ()


def _sha1(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode("ascii")


def record_bytes(record: Record) -> bytes:
    """The record as plain (not yet compressed) bytes."""
    identity = f"{record.kind} {record.uri} {record.date} {_sha1(record.block)}"
    head = [
        ("WARC-Type", record.kind),
        ("WARC-Date", record.date),
        ("WARC-Record-ID", f"<urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}>"),
    ]
    if record.uri:
        head.append(("WARC-Target-URI", record.uri))
    head.extend(record.fields)
    head.append(("Content-Type", record.content_type))
    if record.payload is not None:
        head.append(("WARC-Payload-Digest", _sha1(record.payload)))
    head.append(("WARC-Block-Digest", _sha1(record.block)))
    head.append(("Content-Length", str(len(record.block))))
    lines = "WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in head) + "\r\n"
    return lines.encode("utf-8") + record.block + b"\r\n\r\n"


def member(data: bytes) -> bytes:
    """One gzip member without a time stamp."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def corrupt(packed: bytes) -> bytes:
    """Overwrite bytes in the middle of a gzip member so that it no longer inflates."""
    middle = len(packed) // 2
    broken = packed[:middle] + b"\xa5\x5a" * 24 + packed[middle + 48 :]
    try:
        zlib.decompress(broken, 31)
    except zlib.error:
        return broken
    raise ValueError("the member still inflates after corruption")


def http_response(body: bytes, content_type: str, date: str, status: str = "200 OK") -> bytes:
    """An HTTP response with its headers; an empty `content_type` leaves the header out."""
    head = [f"HTTP/1.1 {status}", f"Date: {date}", "Server: demo"]
    if content_type:
        head.append(f"Content-Type: {content_type}")
    head.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode("ascii") + body


def warcinfo(name: str, date: str) -> Record:
    """The record that opens each file."""
    block = f"software: ilm_ray demo corpus\r\nformat: WARC File Format 1.0\r\nfilename: {name}\r\n".encode()
    return Record("warcinfo", "", date, "application/warc-fields", block, fields=(("WARC-Filename", name),))


def response(uri: str, date: str, http: bytes, body: bytes) -> Record:
    """A response record."""
    return Record("response", uri, date, "application/http; msgtype=response", http, payload=body)


def request(uri: str, date: str) -> Record:
    """A request record, which readers of responses pass over."""
    host, _, path = uri.split("//", 1)[1].partition("/")
    block = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n".encode("ascii")
    return Record("request", uri, date, "application/http; msgtype=request", block)


def revisit(uri: str, date: str) -> Record:
    """A revisit record: the page had not changed since an earlier crawl, so there is no body."""
    block = b"HTTP/1.1 304 Not Modified\r\nServer: demo\r\n\r\n"
    profile = "http://netpreserve.org/warc/1.0/revisit/identical-payload-digest"
    return Record(
        "revisit", uri, date, "application/http; msgtype=response", block, fields=(("WARC-Profile", profile),)
    )
