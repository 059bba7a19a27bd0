"""Opening input files wherever they lie, and what they look like before anything starts."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import fsspec
import zstandard

from ilm_ray.errors import UserError
from ilm_ray.text.sources import Source, one_line

ENDS = 65_536  # bytes hashed at either end of a file: hashing terabytes would cost more than reading them


def fingerprint(source: Source) -> str:
    """Size and a hash of both ends of the file. Raises UserError where it cannot be read or is no WARC."""
    try:
        with open_source(source) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            head = stream.read(ENDS)
            stream.seek(max(0, size - ENDS))
            tail = stream.read(ENDS)
    except OSError as error:
        raise UserError(
            f"cannot read WARC file {source.path}: {one_line(error)}; check the path and its permissions"
        ) from None
    if not looks_like_warc(head):
        raise UserError(f"{source.path} is no WARC file (it does not begin with 'WARC/'); leave it out of input=...")
    return f"{size}:{hashlib.sha256(head + tail).hexdigest()[:16]}"


def open_source(source: Source) -> BinaryIO:
    """The file's bytes as a seekable stream."""
    filesystem, path = fsspec.url_to_fs(source.path)
    stream: BinaryIO = filesystem.open(path, "rb")
    return stream


def looks_like_warc(head: bytes) -> bool:
    """Do the first bytes of a file, plain or a gzip, zstd or lz4 frame, read `WARC/`? An empty file may: it is cut."""
    plain: Callable[[bytes], bytes] | None = None
    if head.startswith(b"\x1f\x8b"):
        plain = _gunzip
    elif head.startswith((b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18")):  # zstd, or zstd with its dictionary in front
        plain = _unzstd
    elif head.startswith(b"\x04\x22\x4d\x18"):
        # The first block of an lz4 frame begins with literals: no decoder needed for five letters.
        return b"WARC/" in head[:64]
    try:
        text = plain(head) if plain else head
    except (zlib.error, zstandard.ZstdError):
        return False
    return text.lstrip()[:5] == b"WARC/"[: len(text.lstrip())]


def _gunzip(head: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(head, 4096)


def _unzstd(head: bytes) -> bytes:
    if head.startswith(b"\x5d\x2a\x4d\x18"):
        return b"WARC/"  # a dictionary-compressed WARC: only WARC writers put the dictionary into a skippable frame
    return zstandard.ZstdDecompressor().decompressobj().decompress(head)


def file_fingerprint(path: Path, what: str) -> str:
    """Hash of a small local input. Raises UserError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}; set its path or leave the setting out") from None
