"""Documents as a data set for other readers: Parquet in the layout of the Hugging Face Hub, wherever fsspec writes.

`<out>/README.md` names the files, `<out>/data/train-00000-of-00003.parquet` holds the documents of one file of the
stage. The columns of a document have a type each; all other columns, scores among them, are one column of JSON.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, read_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = "export.json"
_ROWS = 2048  # of a row group
_TYPES = {
    "id": "string", "url": "string", "dump": "string", "source": "string", "date": "string", "title": "string",
    "language": "string", "language_score": "float64", "text": "string", "chars": "int64", "bytes": "int64",
    "line_num": "int64", "token_num": "int64",
}  # fmt: skip
_CARD = """---
configs:
- config_name: default
  data_files: data/train-*.parquet
---
Documents of the stage `{stage}` of an ilm_ray run, one a row. `columns` holds their scores as JSON.
"""


def write_dataset(
    files: Sequence[Path], out: str, stage: str, fingerprint: str, done: Callable[[int], None] = lambda _: None
) -> dict[str, int]:
    """Write the documents of `files` (JSON Lines) under `out`, a folder or URL; returns counts.

    A file that an earlier call finished is left as it is: each appears whole. fingerprint: of the stage; `done` gets
    the number of files so far. Raises UserError where `out` holds another export, OSError where it cannot be written.
    """
    system, root = fsspec.core.url_to_fs(out)
    record = {"stage": stage, "fingerprint": fingerprint, "files": len(files)}
    about = f"{root}/{RECORD}"
    if system.exists(about):
        if json.loads(system.cat_file(about)) != record:
            raise UserError(f"{out} holds an export of something else ({RECORD}); give another --out, or delete it")
    elif system.exists(f"{root}/data"):
        raise UserError(f"{out}/data is there and no export of ours; give another --out")
    system.makedirs(f"{root}/data", exist_ok=True)
    system.pipe_file(about, json.dumps(record).encode())
    counts = {"files": len(files), "written": 0, "documents": 0}
    for number, path in enumerate(files):
        target = f"{root}/data/train-{number:05d}-of-{len(files):05d}.parquet"
        if not system.exists(target):
            counts["documents"] += _write(system, path, target)
            counts["written"] += 1
        done(number + 1)
    system.pipe_file(f"{root}/README.md", _CARD.format(stage=stage).encode())
    return counts


def _write(system: Any, path: Path, target: str) -> int:
    """One Parquet file, which appears when it is whole; the number of documents."""
    import pyarrow as pa  # slow to import
    import pyarrow.parquet

    schema = pa.schema([*((name, kind) for name, kind in _TYPES.items()), ("columns", "string")])
    partial, documents = f"{target}.partial", 0
    with system.open(partial, "wb") as stream, pa.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in _batches(path, schema):
            writer.write_batch(batch)
            documents += batch.num_rows
    system.mv(partial, target)
    return documents


def _batches(path: Path, schema: "pa.Schema") -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    rows = list[JsonObject]()
    for row in read_jsonl(path):
        others = {name: value for name, value in row.items() if name not in _TYPES}
        rows.append({name: row.get(name) for name in _TYPES} | {"columns": json.dumps(others, ensure_ascii=False)})
        if len(rows) == _ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema)
            rows.clear()
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema)
