"""Files of tar and zip archives. They are hostile: nothing is unpacked to disk, no link followed, all sizes bounded."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.data.code.files.entries import Entry, Listing, ReadLimits

# What the standard library raises on archives that are cut off or made up.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
    NotImplementedError, OverflowError, IndexError, struct.error,
)  # fmt: skip
_HEADER_BYTES = 1 << 20  # no honest header of a tar member is longer
_MAGIC: dict[bytes, Callable[[str], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def list_zip(path: str, limits: ReadLimits) -> Listing:
    """Regular files by the names in the archive. Raises UserError where it is damaged or beyond the limits."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGE as error:
        raise _damaged(path, error) from None
    _check_count(path, len(infos), limits)
    members, left_out = list[Entry](), Counter[str]()
    for info in infos:
        if info.filename.endswith("/"):  # as is_dir() has it, which raises for a member without a name
            continue
        link = (info.external_attr >> 16) & 0o170000 not in (0, 0o100000)  # Unix type bits; 0: made elsewhere
        if link or info.flag_bits & 1:
            left_out["encrypted" if info.flag_bits & 1 else "no_regular_file"] += 1
        else:
            members.append(Entry(info.filename, info.file_size, info.filename))
    return _named(members, left_out)


def read_zip(path: str, entries: Iterable[Entry], limits: ReadLimits) -> Iterator[tuple[Entry, bytes]]:
    """At most `limits.file_bytes` + 1 bytes of each entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                with archive.open(entry.member) as raw:
                    yield entry, raw.read(limits.file_bytes + 1)
    except DAMAGE as error:
        raise _damaged(path, error) from None


def list_tar(path: str, limits: ReadLimits) -> Listing:
    """Regular files by the names in the archive. Raises UserError where it is damaged or beyond the limits."""
    members, left_out = list[Entry](), Counter[str]()
    try:
        with _open_tar(path, limits) as archive:
            for number, info in enumerate(archive, 1):
                _check_count(path, number, limits)
                if info.isreg() and not info.issparse():
                    members.append(Entry(info.name, info.size, info.name))
                elif not info.isdir():
                    left_out["no_regular_file"] += 1
    except DAMAGE as error:
        raise _damaged(path, error) from None
    return _named(members, left_out)


def read_tar(path: str, entries: Iterable[Entry], limits: ReadLimits) -> Iterator[tuple[Entry, bytes]]:
    """At most `limits.file_bytes` + 1 bytes of each entry, in the order of the archive; of equal names the first."""
    wanted = {entry.member: entry for entry in entries}
    try:
        with _open_tar(path, limits) as archive:
            for info in archive:
                entry = wanted.pop(info.name, None) if info.isreg() and not info.issparse() else None
                if entry is None:
                    continue
                raw = archive.extractfile(info)
                assert raw is not None, "a regular file"
                yield entry, raw.read(limits.file_bytes + 1)
                if not wanted:
                    return
    except DAMAGE as error:
        raise _damaged(path, error) from None


class _Bounded(io.RawIOBase):
    """An unpacked stream that refuses to go beyond a number of bytes, or to give much of it at once."""

    def __init__(self, raw: Any, limits: ReadLimits) -> None:
        self._raw, self._limit, self._most = raw, limits.archive_bytes, max(limits.file_bytes + 1, _HEADER_BYTES)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most:
            raise tarfile.ReadError(f"a member's header claims {size} bytes")
        self._check(self._raw.tell() + size)
        return bytes(self._raw.read(size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET, "tarfile seeks from the start"
        self._check(offset)
        return int(self._raw.seek(offset))

    def tell(self) -> int:
        return int(self._raw.tell())

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _check(self, end: int) -> None:
        if end > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than code.max_archive_bytes = {self._limit}")


def _open_tar(path: str, limits: ReadLimits) -> tarfile.TarFile:
    with Path(path).open("rb") as raw:
        head = raw.read(6)
    opener = next((candidate for magic, candidate in _MAGIC.items() if head.startswith(magic)), None)
    unpacked = io.FileIO(path) if opener is None else opener(path)
    return tarfile.TarFile(fileobj=_Bounded(unpacked, limits), mode="r", errorlevel=2)


def _named(members: list[Entry], left_out: Counter[str]) -> Listing:
    """Entries with safe paths, each once; the folder that holds everything (`project-1.0/`) is taken off."""
    safe: dict[str, Entry] = {}
    for entry in members:
        path = entry.path.removeprefix("./")
        if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")) or ":" in path[:2]:
            left_out["unsafe_name"] += 1
        elif path in safe:
            left_out["same_name"] += 1
        else:
            safe[path] = entry._replace(path=path)
    tops = {path.split("/", 1)[0] for path in safe}
    if len(tops) == 1 and all("/" in path for path in safe):
        return Listing([e._replace(path=e.path.split("/", 1)[1]) for e in safe.values()], left_out)
    return Listing(list(safe.values()), left_out)


def _check_count(path: str, members: int, limits: ReadLimits) -> None:
    if members > limits.archive_members:
        raise UserError(
            f"code.source: {path} has more than code.max_archive_members = {limits.archive_members} members; "
            "unpack it yourself or raise the setting"
        )


def _damaged(path: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"code.source: cannot read archive {path}: {reason}; mend it or leave it out")
