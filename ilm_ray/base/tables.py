"""Rows of Parquet and Arrow files, and the files of a data set in the layouts of Hugging Face's `datasets`.

Layouts: a folder that `save_to_disk` wrote (Arrow streams that state.json lists), one with a folder for each split
(dataset_dict.json), and a clone of a repository of the Hub (files whose names or folders begin with a split's name).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO

from ilm_ray.base.jsonl import JsonObject

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = (".parquet", ".arrow")
ROWS = (*TABLES, ".jsonl", ".jsonl.zst", ".jsonl.gz")
TRAIN, HELDOUT = "train", "heldout"
_SPLIT = re.compile(r"(train|validation|valid|dev|test|heldout|eval)(?:[-_.\d]|$)", re.IGNORECASE)
_ROWS_AT_ONCE = 1024
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def read_table(stream: BinaryIO, path: str) -> Iterator[JsonObject]:
    """Rows of a .parquet or .arrow file, a piece of it in memory at a time. Raises ValueError where it is damaged."""
    import pyarrow as pa  # slow to import, and most runs need none
    import pyarrow.parquet

    try:
        if path.endswith(".parquet"):
            batches = pyarrow.parquet.ParquetFile(stream).iter_batches(_ROWS_AT_ONCE)
        else:
            batches = iter(_arrow(stream))
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def dataset_files(folder: Path) -> list[tuple[str, Path]]:
    """(split, file) of the files with rows in a folder, sorted; split is `train`, `heldout`, or "" where no name says.

    Raises ValueError where a layout names files that are not there.
    """
    if (folder / _SPLITS).is_file():
        splits = json.loads((folder / _SPLITS).read_text(encoding="utf-8"))["splits"]
        return [(split_named(name), path) for name in splits for _, path in dataset_files(folder / name)]
    if (folder / _STATE).is_file():
        listed = json.loads((folder / _STATE).read_text(encoding="utf-8"))["_data_files"]
        files = [folder / about["filename"] for about in listed]
        if missing := [path for path in files if not path.is_file()]:
            raise ValueError(f"{missing[0]} is missing")
        return [("", path) for path in files]
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(ROWS) and path.is_file())
    return [(_split_of(path.relative_to(folder)), path) for path in found]


def split_named(name: str) -> str:
    """`train`, `heldout` (any split that is not trained on), or "" where the name is none of a split."""
    match = _SPLIT.match(name)
    return "" if match is None else TRAIN if match[1].lower() == "train" else HELDOUT


def _split_of(path: PurePath) -> str:
    return next(filter(None, map(split_named, reversed(path.parts))), "")


def _arrow(stream: BinaryIO) -> "Iterator[pa.RecordBatch]":
    """`datasets` writes streams; others write files."""
    import pyarrow as pa

    begin = stream.read(6)
    stream.seek(0)
    if begin == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)
