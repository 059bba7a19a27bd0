"""Rows of the files that alignment is given: conversations, preference pairs, prompts, labels."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import sha256_of
from ilm_ray.base.jsonl import JsonObject, read_jsonl
from ilm_ray.base.tables import HELDOUT, ROWS, TABLES, TRAIN, dataset_files, read_table, split_named

SPLITS = (TRAIN, HELDOUT)


def read_rows(path: Path, keys: tuple[str, ...], setting: str) -> list[JsonObject]:
    """As `iter_rows`, all at once."""
    return list(iter_rows(path, keys, setting))


def iter_rows(path: Path, keys: tuple[str, ...], setting: str) -> Iterator[JsonObject]:
    """Rows of JSON Lines, Parquet or Arrow, or of a folder that holds a data set; they must have `keys`.

    One row after the other: a file may be larger than the memory. Rows of a data set whose files are split have their
    `split`, unless they say it themselves. Raises UserError with the line at fault.
    """
    kinds = f"a JSON Lines or Parquet file, or a folder of them, with {', '.join(keys)}"
    if not path.exists():
        raise UserError(f"{setting}: {path} does not exist; give {kinds}")
    number = 0
    try:
        for number, row in enumerate(_all_rows(path), 1):
            if missing := [key for key in keys if not isinstance(row, dict) or key not in row]:
                raise UserError(f"{setting}: {path} line {number} lacks {', '.join(missing)}")
            if "split" in row and row["split"] not in SPLITS:
                raise UserError(
                    f"{setting}: {path} line {number} has split {str(row['split'])[:40]!r}, which nothing reads; write "
                    f'"{TRAIN}" or "{HELDOUT}", or take the row out'
                )
            yield row
    except (ValueError, KeyError) as error:
        raise UserError(f"{setting}: {path} is not JSON Lines, Parquet or a data set: {error}") from None
    if not number:
        raise UserError(f"{setting}: {path} is empty; give {kinds} ({', '.join(ROWS)})")


def is_table(path: Path) -> bool:
    """Whether rows lie in another form than JSON Lines: Parquet, Arrow, or a folder of files."""
    return path.is_dir() or path.name.endswith(TABLES)


def rows_digest(path: Path) -> str:
    """Hash of a file with rows, or of all files of a data set, by name and content."""
    if not path.is_dir():
        return sha256_of(path)
    listed = [f"{split} {file.relative_to(path)} {sha256_of(file)}" for split, file in dataset_files(path)]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def require_splits(rows: Iterable[JsonObject], setting: str) -> None:
    """Raise UserError unless rows are there to train on and to measure with."""
    splits = {str(row.get("split", TRAIN)) for row in rows}
    for split in SPLITS:
        if split not in splits:
            raise UserError(
                f'{setting} has no row of split "{split}"; mark rows with "split": "train" or "split": "heldout" '
                f'(without "split" a row counts as "train")'
            )


def _all_rows(path: Path) -> Iterator[JsonObject]:
    if path.is_dir():
        files = dataset_files(path)
    else:
        files = [(split_named(path.name) if path.name.endswith(TABLES) else "", path)]
    for split, file in files:
        for row in _rows(file):
            yield {"split": split, **row} if split and isinstance(row, dict) else row


def _rows(path: Path) -> Iterator[JsonObject]:
    if not path.name.endswith(TABLES):
        yield from read_jsonl(path)
        return
    with path.open("rb") as stream:
        for row in read_table(stream, str(path)):
            # A column of Parquet that a row has nothing in is a key that it does not have.
            yield {key: value for key, value in row.items() if value is not None}
