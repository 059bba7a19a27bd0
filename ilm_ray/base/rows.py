"""Rows of the files that alignment is given: conversations, preference pairs, prompts, labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, read_jsonl
from ilm_ray.base.tables import ROWS, TABLES, dataset_files, read_table, split_named


def read_rows(path: Path, keys: tuple[str, ...], setting: str) -> list[JsonObject]:
    """Rows of JSON Lines, Parquet or Arrow, or of a folder that holds a data set; they must have `keys`.

    Rows of a data set whose files are split have their `split`, unless they say it themselves. Raises UserError with
    the line at fault.
    """
    kinds = f"a JSON Lines or Parquet file, or a folder of them, with {', '.join(keys)}"
    if not path.exists():
        raise UserError(f"{setting}: {path} does not exist; give {kinds}")
    try:
        files = dataset_files(path) if path.is_dir() else [(split_named(path.name) if _is_table(path) else "", path)]
        rows = [row for split, file in files for row in _rows(file, split)]
    except (ValueError, KeyError) as error:
        raise UserError(f"{setting}: {path} is not JSON Lines, Parquet or a data set: {error}") from None
    for number, row in enumerate(rows, 1):
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{setting}: {path} line {number} lacks {', '.join(missing)}")
    if not rows:
        raise UserError(f"{setting}: {path} is empty; give {kinds} ({', '.join(ROWS)})")
    return rows


def require_splits(rows: Sequence[JsonObject], setting: str) -> None:
    """Raise UserError unless rows are there to train on and to measure with."""
    splits = [row.get("split", "train") for row in rows]  # no set: a file may say anything
    for split in ("train", "heldout"):
        if split not in splits:
            raise UserError(
                f'{setting} has no row of split "{split}"; mark rows with "split": "train" or "split": "heldout" '
                f'(without "split" a row counts as "train")'
            )


def _is_table(path: Path) -> bool:
    return path.name.endswith(TABLES)


def _rows(path: Path, split: str) -> Iterator[JsonObject]:
    if _is_table(path):
        with path.open("rb") as stream:
            # A column of Parquet that a row has nothing in is a key that it does not have.
            found = [
                {key: value for key, value in row.items() if value is not None} for row in read_table(stream, str(path))
            ]
    else:
        found = list(read_jsonl(path))
    yield from ({"split": split, **row} if split and isinstance(row, dict) else row for row in found)
