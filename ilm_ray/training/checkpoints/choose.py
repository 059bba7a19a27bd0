"""Chooses the checkpoint to resume from: the newest whole one, the same on every rank."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ilm_ray.base.errors import UserError
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.store import Store


def choose(
    folder: Path, stores: Sequence[Store], fingerprint: str, group: dist.ProcessGroup
) -> tuple[Path | None, list[str]]:
    """Returns (folder of the checkpoint or None, notes for people). Every rank of `group` calls it and gets the same.

    Local checkpoints are tried from the newest; a damaged one is marked as DAMAGED, and its copy in a store takes its
    place. Stores are read only then, and where nothing local is left. stores: in the order in which they are read.
    Raises UserError where nothing local is left and a store cannot be read.
    """
    notes = list[str]()
    proposals = _proposals(folder, stores, notes) if dist.get_rank(group) == 0 else iter(())
    while (path := _next_of_first_rank(proposals, group)) is not None:
        wrong = _verify_together(path, fingerprint, group)
        if not wrong:
            break
        if dist.get_rank(group) == 0:
            (path / commit.COMMIT).replace(path / commit.DAMAGED)
            notes.append(f"{path} is DAMAGED: {'; '.join(wrong[:3])}")
    if notes:
        notes.append(f"training goes on from {path.name}" if path else "training begins anew")
    return path, _broadcast(notes, group)


def _proposals(folder: Path, stores: Sequence[Store], notes: list[str]) -> Iterator[Path]:
    """On rank 0: one checkpoint after the other, best first. The caller marks each damaged one before the next."""
    _clear(folder)
    for path in reversed(commit.committed(folder)):
        yield path
        try:
            yield from _fetched(folder, stores, notes, commit.step_of(path))
        except Exception as error:  # of any kind: there are older checkpoints on the disk
            notes.append(f"a copy in the store was not to be had ({_one_line(error)})")
    try:
        yield from _fetched(folder, stores, notes, None)
    except Exception as error:
        raise UserError(
            f"the store cannot be read ({_one_line(error)}), and {folder} holds no whole checkpoint; "
            "make it reachable, or set training.store=null to begin without it"
        ) from None


def _fetched(folder: Path, stores: Sequence[Store], notes: list[str], only: int | None) -> Iterator[Path]:
    """Checkpoints of the stores, newest first, each fetched before it is proposed. only: the single step to fetch."""
    copies = [(step, number) for number, store in enumerate(stores) for step in store.checkpoints()]
    for step, number in sorted(copies, key=lambda entry: (-entry[0], entry[1])):
        if only in (None, step):
            path = stores[number].fetch(step, folder)
            notes.append(f"{path.name} was fetched from {stores[number].url}")
            yield path


def _verify_together(path: Path, fingerprint: str, group: dist.ProcessGroup) -> list[str]:
    """Phrases that name the damage of a checkpoint; every rank hashes its share of the files."""
    try:
        record = commit.read(path)
    except (OSError, ValueError) as error:
        mine = [f"{commit.COMMIT} cannot be read ({error})"]
    else:
        if fingerprint and record.fingerprint and record.fingerprint != fingerprint:
            raise UserError(f"{path} was written with other settings or inputs; move it away or give another --run-dir")
        largest_first = sorted(record.files, key=lambda name: -record.files[name].bytes)
        mine = commit.damage(path, largest_first[dist.get_rank(group) :: dist.get_world_size(group)], record.files)
    by_rank: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(by_rank, mine, group=group)
    return sorted({phrase for phrases in by_rank for phrase in phrases})


def _next_of_first_rank(proposals: Iterator[Path], group: dist.ProcessGroup) -> Path | None:
    """Rank 0's next proposal on every rank; its UserError too is raised on every rank."""
    answer: Any = None
    if dist.get_rank(group) == 0:
        try:
            answer = next(proposals, None)
        except UserError as error:
            answer = str(error)
    answer = _broadcast(answer, group)
    if isinstance(answer, str):
        raise UserError(answer)
    return answer


def _broadcast(value: Any, group: dist.ProcessGroup) -> Any:
    held = [value]
    dist.broadcast_object_list(held, src=dist.get_global_rank(group, 0), group=group)
    return held[0]


def _clear(folder: Path) -> None:
    """Remove the leftovers of runs that were killed during a save, a fetch or a deletion."""
    for path in [*folder.glob("step-*"), *folder.glob("fetching-step-*")]:
        if not (path / commit.COMMIT).exists() and not (path / commit.DAMAGED).exists():
            shutil.rmtree(path)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
