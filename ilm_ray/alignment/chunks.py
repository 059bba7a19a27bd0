"""Rows of a user's file, tokenised once: a chunk of rows a task of Ray Data, a shard and a receipt a chunk.

A chunk with a receipt is not done again. Ranks map the shards into memory.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonObject, decoded, read_jsonl, write_jsonl
from ilm_ray.base.rows import is_table, iter_rows
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.run.progress import Progress

CHUNK_ROWS = 20_000
HELDOUT_EVERY = 10  # every so many rows one is held out, where no row says its split
SPLITS = {None: 0, "train": 1, "heldout": 2}

Run = Callable[..., Iterable[dict[str, Any]]]


class Chunk(NamedTuple):
    """Rows of a file: bytes [start, end); end None: all of a packed file. first: number of its first row, from 0."""

    start: int
    end: int | None
    first: int


def chunks_of(path: Path, rows: int = CHUNK_ROWS) -> list[Chunk]:
    """Chunks of a file, in order. A packed file is one: nobody can read it from the middle."""
    if path.suffix == ".zst":
        return [Chunk(0, None, 0)]
    chunks, start, at, first, number = list[Chunk](), 0, 0, 0, 0
    with path.open("rb") as lines:
        for line in lines:
            at += len(line)
            number += bool(line.strip())
            if number - first == rows:
                chunks.append(Chunk(start, at, first))
                start, first = at, number
    return [*chunks, Chunk(start, at, first)] if number > first else chunks


def tokenize_chunks(
    path: Path,
    folder: Path,
    keys: tuple[str, ...],
    setting: str,
    tokenize: Callable[[AnyTokenizer, Iterable[tuple[int, JsonObject]], Path, int], JsonObject],
    tokenizer: Path,
    run: Run = run_tasks,
) -> Iterator[JsonObject]:
    """The receipt of each chunk, of those too that an earlier call has written.

    keys: fields that each row has; tokenize: (tokenizer, (number, row) pairs, folder, number of the shard) -> receipt,
    once the shard is written; run: does the work on the chunks.
    """
    if is_table(path):  # chunks are stretches of a file of lines
        table, path = path, folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, iter_rows(table, keys, setting))
    items = [{"path": str(path), "number": n, "chunk": list(chunk)} for n, chunk in enumerate(chunks_of(path))]
    work = functools.partial(_tokenize_chunk, folder=str(folder), tokenizer=str(tokenizer), tokenize=tokenize)
    progress, rows = Progress(folder.name, len(items)), 0
    for done, receipt in enumerate(run(items, work), 1):
        rows += receipt["rows"]
        progress.update(done, rows=rows)
        yield receipt


def shard_files(folder: Path) -> list[Path]:
    """All files of the shards."""
    return sorted(path for path in folder.glob("shard-*") if path.is_file())


def _tokenize_chunk(
    item: Mapping[str, Any], folder: str, tokenizer: str, tokenize: Callable[..., JsonObject]
) -> JsonObject:
    receipt = Path(folder) / "receipts" / f"{item['number']:05d}.json"
    if receipt.exists():
        known: JsonObject = json.loads(receipt.read_text(encoding="utf-8"))
        return known
    chunk = Chunk(*item["chunk"])
    rows = enumerate(_rows(Path(item["path"]), chunk), chunk.first)
    made = tokenize(_open(tokenizer), rows, Path(folder), item["number"])
    receipt.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(receipt, json.dumps(made))
    return made


def _rows(path: Path, chunk: Chunk) -> Iterator[JsonObject]:
    return read_jsonl(path) if chunk.end is None else _rows_between(path, chunk.start, chunk.end)


def _rows_between(path: Path, start: int, end: int) -> Iterator[JsonObject]:
    with path.open("rb") as lines:
        lines.seek(start)
        yield from (decoded(line) for line in _until(lines, end - start) if line.strip())


def _until(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    for line in lines:
        size -= len(line)
        yield line
        if size <= 0:
            return


@functools.lru_cache(maxsize=1)
def _open(folder: str) -> AnyTokenizer:
    return open_tokenizer(Path(folder))  # once a worker process, not once a chunk
