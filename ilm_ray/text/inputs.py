"""Which WARC files a run reads: the glob, looked at before anything starts, and their frozen order."""

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import zstandard

from ilm_ray.demo import DATA
from ilm_ray.errors import UserError

DEFAULT_GLOB = str(DATA / "web" / "*" / "*.warc.gz")
ENDS = 65_536  # bytes hashed at either end of a file: hashing terabytes would cost more than reading them
FILE_BITS, ROW_BITS = 20, 28
_DUMP = re.compile(r"CC-MAIN-\d{4}-\d\d")


@dataclass(frozen=True)
class Source:
    """One WARC file. `index` is its place in the frozen order, `rank` its dump's (0: the newest)."""

    index: int
    rank: int
    dump: str
    path: str  # what fsspec opens

    def document_id(self, row: int) -> int:
        """64 bits: dump rank, file, row. The smaller of two ids is the newer dump, so it is the copy to keep."""
        if row >= 1 << ROW_BITS:
            raise UserError(f"{self.path} holds more than {1 << ROW_BITS} pages; split it into smaller WARC files")
        return self.rank << (FILE_BITS + ROW_BITS) | self.index << ROW_BITS | row


def file_of(document_id: int) -> int:
    """Index of the file that a document came from."""
    return document_id >> ROW_BITS & ((1 << FILE_BITS) - 1)


def find_sources(pattern: str | None) -> list[Source]:
    """The files that `pattern` (None: the demo corpus) matches, sorted by path.

    Raises UserError where nothing matches or the storage that the pattern names cannot be used.
    """
    pattern = pattern or DEFAULT_GLOB
    try:
        filesystem, inner = fsspec.url_to_fs(pattern)
        found = sorted(path for path in filesystem.glob(inner) if filesystem.isfile(path))
    except (ImportError, OSError, ValueError) as error:  # no driver installed, no access, an unknown scheme
        raise UserError(
            f"input={pattern} cannot be listed: {_one_line(error)}; give a glob of WARC files in a folder or a storage "
            "whose fsspec driver is installed"
        ) from None
    if not found:
        raise UserError(f"input={pattern} matches no file; give a glob of WARC files, e.g. input='crawl/*/*.warc.gz'")
    if len(found) > 1 << FILE_BITS:
        raise UserError(f"input={pattern} matches {len(found)} files; at most {1 << FILE_BITS} fit into one run")
    dumps = [_dump_of(path) for path in found]
    ranks = {dump: rank for rank, dump in enumerate(sorted(set(dumps), reverse=True))}
    return [
        Source(index, ranks[dump], dump, filesystem.unstrip_protocol(path))
        for index, (dump, path) in enumerate(zip(dumps, found, strict=True))
    ]


def _dump_of(path: str) -> str:
    """The innermost folder named like a crawl (`CC-MAIN-2024-10/segments/<id>/warc/x.warc.gz`), else the parent."""
    folders = path.split("/")[:-1]
    return next((name for name in reversed(folders) if _DUMP.fullmatch(name)), folders[-1] if folders else "")


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
            f"cannot read WARC file {source.path}: {_one_line(error)}; check the path and its permissions"
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


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


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


def jsonable(source: Source) -> dict[str, Any]:
    """The source as a row that Ray Data carries."""
    return {"index": source.index, "rank": source.rank, "dump": source.dump, "path": source.path}
