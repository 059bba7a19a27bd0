"""Rows of the files that alignment is given: conversations, preference pairs, prompts, labels."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, read_jsonl

SPLITS = ("train", "heldout")


def read_rows(path: Path, keys: tuple[str, ...], setting: str) -> list[JsonObject]:
    """Rows of a JSON Lines file that must have `keys`. Raises UserError with the line at fault."""
    return list(iter_rows(path, keys, setting))


def iter_rows(path: Path, keys: tuple[str, ...], setting: str) -> Iterator[JsonObject]:
    """As `read_rows`, one row after the other: a file may be larger than the memory."""
    if not path.is_file():
        raise UserError(f"{setting}: {path} does not exist; give a JSON Lines file with {', '.join(keys)}")
    number = 0
    try:
        for number, row in enumerate(read_jsonl(path), 1):
            if missing := [key for key in keys if not isinstance(row, dict) or key not in row]:
                raise UserError(f"{setting}: {path} line {number} lacks {', '.join(missing)}")
            if "split" in row and row["split"] not in SPLITS:
                raise UserError(
                    f"{setting}: {path} line {number} has split {str(row['split'])[:40]!r}, which nothing reads; write "
                    f'"train" or "heldout", or take the row out'
                )
            yield row
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not JSON Lines: {error}") from None
    if not number:
        raise UserError(f"{setting}: {path} is empty")


def require_splits(rows: Iterable[JsonObject], setting: str) -> None:
    """Raise UserError unless rows are there to train on and to measure with."""
    splits = {str(row.get("split", "train")) for row in rows}
    for split in SPLITS:
        if split not in splits:
            raise UserError(
                f'{setting} has no row of split "{split}"; mark rows with "split": "train" or "split": "heldout" '
                f'(without "split" a row counts as "train")'
            )
