"""COMMIT makes a folder a checkpoint: written last, it holds the size and SHA-256 of every other file in it."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilm_ray.base.files import sha256_of

COMMIT = "COMMIT"
DAMAGED = "DAMAGED"  # the new name of COMMIT once a file of the checkpoint proves wrong
_DIGITS = 8  # of a step, so that names sort as steps do
UPLOADED = "UPLOADED"  # holds the address of the store that has a whole copy


@dataclass(frozen=True)
class File:
    """Size and SHA-256 (hexadecimal) of one file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """The record of a checkpoint.

    time: seconds since 1970; state: small JSON of the training loop; fingerprint: of the work that it belongs to;
    journal: size in bytes of the run's journal when it was taken; files: by name, COMMIT itself excluded.
    """

    step: int
    time: float
    state: dict[str, Any]
    fingerprint: str
    journal: int
    files: dict[str, File]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def text(self) -> str:
        """JSON with a SHA-256 of itself."""
        record = asdict(self)
        return json.dumps({**record, "sha256": _digest(record)})


def parse(text: str) -> Commit:
    """The inverse of `Commit.text`. Raises ValueError where the text has changed, or names a file outside its folder:
    the hash alone does not stop a forged record."""
    try:
        record = json.loads(text)
        if record.pop("sha256") != _digest(record):
            raise ValueError("it is not what was written")
        files = {_plain_name(name): File(**file) for name, file in record.pop("files").items()}
        commit = Commit(**record, files=files)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no record of a checkpoint ({error!r})") from None
    counts = (commit.step, commit.journal, *(file.bytes for file in files.values()))
    if not all(isinstance(count, int) and count >= 0 for count in counts) or commit.step >= 10**_DIGITS:
        raise ValueError("it is no record of a checkpoint (a step or size that cannot be)")
    texts = (commit.fingerprint, *(file.sha256 for file in files.values()))
    if not (all(isinstance(text, str) for text in texts) and isinstance(commit.state, dict)):
        raise ValueError("it is no record of a checkpoint (a field of another kind)")
    return commit


def _plain_name(name: str) -> str:
    """`name`, a file of the checkpoint's own folder: a forged record must not make a fetch write elsewhere."""
    if name in ("", ".", "..", COMMIT) or "/" in name or not name.isprintable():
        raise ValueError(f"it names a file outside its folder ({name!r})")
    return name


def name_of(step: int) -> str:
    """Folder name of a step's checkpoint; names sort as steps do."""
    return f"step-{step:0{_DIGITS}d}"


def step_of(path: Path) -> int:
    """The inverse of `name_of`."""
    return int(path.name.removeprefix("step-"))


def committed(folder: Path) -> list[Path]:
    """Committed checkpoints in `folder`, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"step-*/{COMMIT}"))


def newest_step(folder: Path) -> int:
    """Step of the newest committed checkpoint; 0 if there is none."""
    paths = committed(folder)
    return step_of(paths[-1]) if paths else 0


def read(path: Path) -> Commit:
    """The record of the checkpoint in folder `path`. Raises OSError, or ValueError where it is damaged."""
    return parse((path / COMMIT).read_text(encoding="utf-8"))


def write(
    path: Path, step: int, state: Mapping[str, Any], fingerprint: str, journal: int, files: dict[str, File]
) -> None:
    """Commit folder `path`. The record is flushed before it gets its name, so a loss of power leaves no half one."""
    record = Commit(step, time.time(), dict(state), fingerprint, journal, files)
    temporary = path / f".{COMMIT}"
    temporary.write_text(record.text(), encoding="utf-8")
    sync(temporary)
    sync(path)
    temporary.replace(path / COMMIT)
    sync(path)


def describe(path: Path) -> File:
    """Size and hash of a file as it lies on the disk now; reads all of it."""
    return File(path.stat().st_size, sha256_of(path))


def damage(path: Path, names: Iterable[str], files: Mapping[str, File]) -> list[str]:
    """Check files `names` of the checkpoint in `path`; returns a phrase for each damaged one."""
    phrases = []
    for name in names:
        expected = files[name]
        try:
            size = (path / name).stat().st_size
            if size != expected.bytes:
                phrases.append(f"{name} has {size} bytes instead of {expected.bytes}")
            elif sha256_of(path / name) != expected.sha256:
                phrases.append(f"{name} has another SHA-256 than when it was written")
        except FileNotFoundError:
            phrases.append(f"{name} is missing")
        except OSError as error:
            phrases.append(f"{name} cannot be read ({error.strerror or error})")
    return phrases


def verify(path: Path) -> list[str]:
    """As `damage` for the whole checkpoint, its record included."""
    try:
        files = read(path).files
    except (OSError, ValueError) as error:
        return [f"{COMMIT} cannot be read ({error})"]
    return damage(path, files, files)


def is_uploaded(path: Path, url: str) -> bool:
    """Whether the store at `url` has a whole copy of the local checkpoint in `path`."""
    marker = path / UPLOADED
    return marker.is_file() and marker.read_text(encoding="utf-8") == url


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk: they then survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
