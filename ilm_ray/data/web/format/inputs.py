"""Opening input files wherever they lie, and a look at them before anything starts."""

import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import aiohttp
import fsspec

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.data.documents.sources import Source, one_line
from ilm_ray.data.web.format.archive import looks_like_archive

ENDS = 65_536  # bytes hashed at either end of a file: hashing terabytes would cost more than reading them
ATTEMPTS = 5  # of one read, with waits of 1/4, 1/2, 1, 2 s between them: a storage's hiccup, not its outage
FIRST_WAIT_S = 0.25
DEADLINE_S = 120.0  # for all attempts of one read together
_TRANSIENT = (OSError, aiohttp.ClientError)
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)  # trying again does not help

T = TypeVar("T")


def fingerprint(source: Source) -> tuple[str, bool]:
    """(size and a hash of both ends of the file, does it look like something the text stage reads).

    Raises UserError where it cannot be read.
    """
    with open_source(source) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        head = stream.read(ENDS)
        stream.seek(max(0, size - ENDS))
        tail = stream.read(ENDS)
    readable = bool(source.source) or looks_like_archive(head)
    return f"{size}:{hashlib.sha256(head + tail).hexdigest()[:16]}", readable


def open_source(source: Source) -> BinaryIO:
    """The file's bytes as a seekable stream that survives transient errors.

    Raises UserError, at once or on a later read, where the file cannot be read.
    """
    return io.BufferedReader(_Patient(source.path), 1 << 16)


class _Patient(io.RawIOBase):
    """A file of any fsspec storage; a read that fails is tried again on a newly opened one."""

    def __init__(self, path: str) -> None:
        self._path, self._position = path, 0
        self._file: BinaryIO | None = None
        self._whole = False
        self._size: int = self._retried(lambda file: file.seek(0, 2))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        def read(file: BinaryIO) -> bytes:
            file.seek(self._position)
            return file.read(len(buffer))

        data = self._retried(read)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _retried(self, action: Callable[[BinaryIO], T]) -> T:
        began = time.monotonic()
        attempt = 0
        while True:
            try:
                if self._file is None:
                    self._file = _spooled(self._path) if self._whole else _open(self._path)
                return action(self._file)
            except ValueError:  # an HTTP server that knows no ranges: it sends whole files only
                self._drop()
                if self._whole:
                    raise
                self._whole = True
            except _TRANSIENT as error:
                self._drop()
                wait = FIRST_WAIT_S * 2**attempt
                attempt += 1
                last = attempt == ATTEMPTS or time.monotonic() + wait - began > DEADLINE_S
                if last or isinstance(error, _FINAL):
                    raise UserError(
                        f"cannot read {self._path}: {one_line(error)}; check the path, its permissions and the storage"
                    ) from None
                time.sleep(wait)

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _open(path: str) -> BinaryIO:
    filesystem, inner = fsspec.url_to_fs(path)
    file: BinaryIO = filesystem.open(inner, "rb")
    return file


def _spooled(path: str) -> BinaryIO:
    """The whole file on the local disk: it need not fit into memory."""
    filesystem, inner = fsspec.url_to_fs(path)
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    with filesystem.open(inner, "rb", block_size=0) as file:
        shutil.copyfileobj(file, copy, 1 << 20)
    return copy


def path_fingerprint(path: Path, what: str) -> str:
    """Hash of a local file, or of all files of a folder. Raises UserError where it cannot be read."""
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        hashes = [f"{file.relative_to(path)} {sha256_of(file)}" for file in files]
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}; set its path or leave the setting out") from None
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
