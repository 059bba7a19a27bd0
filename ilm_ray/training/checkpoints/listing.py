"""Lists the checkpoints of a stage: on the disk, in the store, in the cold store."""

from dataclasses import dataclass
from pathlib import Path

from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.checkpoints.commit import Commit
from ilm_ray.training.checkpoints.store import Store


@dataclass(frozen=True)
class Listed:
    """One copy of a checkpoint. record: None where it is not committed or cannot be read; note: its flaw, or empty."""

    step: int
    tier: str  # local, store, cold
    record: Commit | None
    note: str


def listed(folder: Path, storage: Storage) -> list[Listed]:
    """All copies, newest step first. Local files are looked at for their sizes only: `commit.verify` hashes them.

    Raises as the store does.
    """
    copies = [_local(path, storage.store) for path in folder.glob("step-*")]
    for tier, url in (("store", storage.store), ("cold", storage.cold)):
        if url is not None:
            copies += [Listed(step, tier, record, "") for step, record in Store(url).checkpoints().items()]
    return sorted(copies, key=lambda copy: (-copy.step, ("local", "store", "cold").index(copy.tier)))


def _local(path: Path, store: str | None) -> Listed:
    step = commit.step_of(path)
    if not (path / commit.COMMIT).exists():
        return Listed(step, "local", None, commit.DAMAGED if (path / commit.DAMAGED).exists() else "not committed")
    try:
        record = commit.read(path)
    except (OSError, ValueError) as error:
        return Listed(step, "local", None, f"{commit.COMMIT} cannot be read ({error})")
    wrong = [name for name, file in record.files.items() if _size(path / name) != file.bytes]
    note = f"{wrong[0]} is missing or has another size" if wrong else ""
    if not note and store is not None and not commit.is_uploaded(path, store):
        note = "not in the store yet"
    return Listed(step, "local", record, note)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
