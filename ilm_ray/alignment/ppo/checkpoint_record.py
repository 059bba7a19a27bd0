"""The record of a PPO checkpoint: COMMIT, written last, holds the run's counters, and size and SHA-256 of every file.

A checkpoint is `<folder>/checkpoints/iteration-<n>`, with files of both learners in folders of their own.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.files import temporary_path
from ilm_ray.run.whole import THREADS
from ilm_ray.run.whole import damage as damaged_files
from ilm_ray.training.checkpoints import commit

COMMIT, DAMAGED = commit.COMMIT, commit.DAMAGED


class Record(NamedTuple):
    """counters: position of the run; files: path within the checkpoint -> bytes and sha256."""

    counters: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.files.values())


def write_record(path: Path, counters: dict[str, Any]) -> None:
    """Commit the checkpoint in folder `path`: its files are on the disk before the record has its name."""
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())

    def describe(name: str) -> dict[str, Any]:
        commit.sync(path / name)
        return commit.describe(path / name).__dict__

    with ThreadPoolExecutor(THREADS) as pool:
        record = {"counters": counters, "files": dict(zip(names, pool.map(describe, names), strict=True))}
    temporary = temporary_path(path / COMMIT)
    temporary.write_text(json.dumps({**record, "sha256": _digest(record)}), encoding="utf-8")
    commit.sync(temporary)
    temporary.replace(path / COMMIT)
    commit.sync(path)


def read_record(path: Path) -> Record:
    """The record of the checkpoint in `path`. Raises OSError, or ValueError where it differs from the one that was
    written."""
    try:
        record = json.loads((path / COMMIT).read_text(encoding="utf-8"))
        if record.pop("sha256") != _digest(record):
            raise ValueError("it is not what was written")
        return Record(record["counters"], record["files"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no record of a checkpoint ({error!r})") from None


def damage(path: Path) -> list[str]:
    """A phrase for each file of the checkpoint that differs from the one that was written, its record included; reads
    all of it."""
    try:
        files = read_record(path).files
    except (OSError, ValueError) as error:
        return [f"{COMMIT} cannot be read ({error})"]
    return [f"{name} {phrase}" for name, phrase in damaged_files(path, files).items()]


def committed(folder: Path) -> list[Path]:
    """Committed checkpoints in `folder`, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"iteration-*/{COMMIT}"))


def set_aside(path: Path) -> None:
    """Take the checkpoint out of those that count; its files stay for inspection."""
    (path / COMMIT).replace(path / DAMAGED)


def iteration_of(path: Path) -> int:
    """Iterations done when the checkpoint in `path` was taken."""
    return int(path.name.removeprefix("iteration-"))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
