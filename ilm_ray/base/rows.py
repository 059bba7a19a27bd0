"""Rows of the files that alignment is given: conversations, preference pairs, prompts, labels."""

from collections.abc import Sequence
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, read_jsonl


def read_rows(path: Path, keys: tuple[str, ...], setting: str) -> list[JsonObject]:
    """Rows of a JSON Lines file that must have `keys`. Raises UserError with the line at fault."""
    if not path.is_file():
        raise UserError(f"{setting}: {path} does not exist; give a JSON Lines file with {', '.join(keys)}")
    try:
        rows = list(read_jsonl(path))
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not JSON Lines: {error}") from None
    for number, row in enumerate(rows, 1):
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{setting}: {path} line {number} lacks {', '.join(missing)}")
    if not rows:
        raise UserError(f"{setting}: {path} is empty")
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
