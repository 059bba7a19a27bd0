"""HTTP responses as archives hold them: header, and body behind its transfer and content encodings."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from io import BytesIO
from typing import Any

from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader

MAX_HEAD = 1 << 20  # bytes in which a header must end; some sites send hundreds of kilobytes of cookies and policies
_STATUS = re.compile("[0-9]{1,9}")  # Python refuses to read a number of some thousand digits
_BLANK = (b"\r\n\r\n", b"\n\n", b"\r\r\n\r\r\n")
_DECODERS: dict[str, tuple[Callable[[Any], Any], ...]] = {  # the first that gives anything is the right one
    "chunked": (ChunkedReader,),
    "gzip": (GzipReader,),
    "x-gzip": (GzipReader,),
    "br": (BrotliReader,),
    "zstd": (ZstdReader,),
    # By the standard with zlib's header. Many servers leave it out, some send gzip; browsers read all three.
    "deflate": (lambda inner: GzipReader(inner, zlib=True), GzipReader, lambda inner: _RawDeflate(inner)),
}


@dataclass(frozen=True)
class Response:
    """A response as sent. Header names are in lower case; of several fields with one name the last one counts."""

    status: int | None  # None where the status line has none
    headers: dict[str, str]
    body: bytes  # still encoded

    @property
    def encodings(self) -> list[str]:
        """The encodings of the body, in order."""
        labels = f"{self.headers.get('content-encoding', '')},{self.headers.get('transfer-encoding', '')}"
        names = [label.strip().lower() for label in labels.split(",")]
        return [name for name in names if name in _DECODERS]


def parse_response(block: bytes) -> Response | None:
    """Header and body of a record's block; None where it is no HTTP response. Header lines may end in LF alone."""
    if not block.startswith(b"HTTP/"):
        return None
    ends = [(at, len(blank)) for blank in _BLANK if (at := block.find(blank, 0, MAX_HEAD)) >= 0]
    end, gap = min(ends, default=(len(block), 0))
    status_line, *lines = block[:end].decode("latin-1").splitlines() or [""]
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, colon, value in fields if colon}
    words = status_line.split(maxsplit=2)
    status = int(words[1]) if len(words) > 1 and _STATUS.fullmatch(words[1]) else None
    return Response(status, headers, block[end + gap :])


def decode_body(response: Response, max_bytes: int) -> bytes:
    """The body without its encodings, at most `max_bytes` of it; memory stays bounded for any bomb.

    An encoding that the header names and the body does not have is passed over: archives often hold decoded bodies
    under the header of the encoded ones. A body that breaks off is decoded as far as it goes.
    """
    body = response.body
    for name in reversed(response.encodings):
        decoded = (_decoded(body, decoder, max_bytes) for decoder in _DECODERS[name])
        body = next(filter(None, decoded), body)
    return body[:max_bytes]


def content_type(value: str) -> tuple[str, str | None]:
    """(media type in lower case, charset or None) of a Content-Type header."""
    message = Message()
    message["Content-Type"] = value
    charset = message.get_param("charset", header="Content-Type")
    media = value.partition(";")[0].strip().lower()
    return media, charset.strip() if isinstance(charset, str) and charset.strip() else None


def _decoded(body: bytes, decoder: Callable[[Any], Any], max_bytes: int) -> bytes:
    reader, parts, missing = decoder(BytesIO(body)), [], max_bytes
    try:
        while missing and (part := reader.read(min(missing, 1 << 20))):
            parts.append(part)
            missing -= len(part)
    except OSError:  # broken off, or never encoded
        pass
    return b"".join(parts)


class _RawDeflate:
    """A deflated stream without any header. Any bytes may look like one: OSError where it turns out to be none."""

    def __init__(self, inner: BytesIO) -> None:
        self._rest, self._inflate = inner.read(), zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        try:
            part = self._inflate.decompress(self._rest, size)
        except zlib.error as error:
            raise OSError("not deflated") from error
        self._rest = self._inflate.unconsumed_tail
        return part
