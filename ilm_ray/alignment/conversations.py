"""Conversations as token shards for SFT: tokenised once, by Ray Data, a chunk of rows a task.

`<run>/sft/conversations/shard-NNNNN.*` are token shards (`data/tokens/shards.py`) with two arrays more: `loss`, one
entry a token, and `split`, one a conversation. A chunk with a receipt is not done again. Ranks map the shards into
memory. A conversation's id is the number of its row, from 0.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilm_ray.alignment.inputs import unread_note
from ilm_ray.base.errors import UserError
from ilm_ray.base.files import save_array, write_text_atomic
from ilm_ray.base.jsonl import JsonObject, decoded, read_jsonl, utf8_bytes, write_jsonl
from ilm_ray.base.rows import is_table, iter_rows
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.chat import AnyTokenizer, encode_chat
from ilm_ray.data.tokenizer.messages import unread_fields
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.data.tokens.shards import ShardWriter, TokenSource
from ilm_ray.run.progress import Progress

FOLDER = "conversations"
CHUNK_ROWS = 20_000
HELDOUT_EVERY = 10  # every so many rows one is held out, where no row says its split
READ = frozenset({"messages", "split", "id", "domain"})  # fields of a row; the last two name it
_SPLITS = {None: 0, "train": 1, "heldout": 2}


class Chunk(NamedTuple):
    """Rows of a file: bytes [start, end); end None: all of a packed file. first: number of its first row."""

    start: int
    end: int | None
    first: int


class Counts(NamedTuple):
    """Counts of the rows by outcome. cut: conversations that lost tokens to learn from because they are longer than
    `sft.context`, and cut_tokens: how many; left_out: those that have none left within it; unread: field -> rows."""

    rows: int = 0
    tokens: int = 0
    learned: int = 0
    cut: int = 0
    cut_tokens: int = 0
    left_out: int = 0
    unread: dict[str, int] = {}  # noqa: RUF012  # never changed

    def plus(self, other: "Counts") -> "Counts":
        sums: list[int] = [a + b for a, b in zip(self[:-1], other[:-1], strict=True)]
        unread = dict(sorted((Counter(self.unread) + Counter(other.unread)).items()))
        return Counts._make([*sums, unread])


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


def tokenize_conversations(
    path: Path, run_dir: Path, context: int, run: Callable[..., Iterable[dict[str, Any]]] = run_tasks
) -> tuple[Counts, list[Path]]:
    """Write the shards of a run; returns the counts of the rows by outcome, and the files. run: does the work on the
    chunks.

    Raises UserError where a conversation does not fit the chat template, or where too few are left to train on and to
    measure with.
    """
    folder = run_dir / "sft" / FOLDER
    if is_table(path):  # chunks are stretches of a file of lines
        table, path = path, folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, iter_rows(table, ("messages",), "sft.data"))
    items = [{"path": str(path), "number": n, "chunk": list(chunk)} for n, chunk in enumerate(chunks_of(path))]
    work = functools.partial(tokenize_chunk, folder=str(folder), tokenizer=str(run_dir / "tokenizer"), context=context)
    counts, progress = Counts(), Progress("conversations", len(items))
    for done, receipt in enumerate(run(items, work), 1):
        counts = counts.plus(Counts(**receipt))
        progress.update(done, rows=counts.rows)
    conversations = Conversations(folder, context)
    for name, found in (("train on", conversations.train), ("measure with", conversations.heldout)):
        if not len(found):
            raise UserError(
                f"sft.data: {path} has no conversation to {name}: of {counts.rows} rows {counts.left_out} hold nothing "
                f"to learn from within sft.context={context}; give more rows, or a larger sft.context"
            )
    return counts, sorted(path for path in folder.glob("shard-*") if path.is_file())


def tokenize_chunk(item: dict[str, Any], folder: str, tokenizer: str, context: int) -> dict[str, Any]:
    """The shard of a chunk, then its receipt, which is returned: the fields of `Counts`."""
    receipt = Path(folder) / "receipts" / f"{item['number']:05d}.json"
    if receipt.exists():
        known: dict[str, Any] = json.loads(receipt.read_text(encoding="utf-8"))
        return known
    encoder = _open(tokenizer)
    template = getattr(getattr(encoder, "template", None), "source", "")
    counts, path, chunk = Counts(), Path(item["path"]), Chunk(*item["chunk"])
    loss, splits = [np.empty(0, bool)], list[int]()
    with ShardWriter(Path(folder), item["number"]) as shard:
        for number, row in enumerate(_rows(path, chunk), chunk.first):
            try:
                ids, mask = encode_chat(encoder, row["messages"])
            except UserError as error:
                raise UserError(f"sft.data: {path} line {number + 1}: {error}") from None
            # One token more than the context: the label of its last position.
            kept = np.array(mask[: context + 1], dtype=bool)
            learned, lost = int(kept[1:].sum()), sum(mask[context + 1 :])
            unread = [key for key, value in row.items() if value is not None and key not in READ]
            unread += unread_fields(row["messages"], template)
            cut, tokens = int(learned > 0 and lost > 0), min(len(ids), context)
            counts = counts.plus(Counts(1, tokens, learned, cut, lost, int(not learned), dict.fromkeys(unread, 1)))
            if learned:
                size = sum(utf8_bytes(str(message.get("content"))) for message in row["messages"])
                shard.add(ids[: context + 1], size, {"id": number})
                loss.append(kept)
                splits.append(_SPLITS[row.get("split")])
        stem = Path(folder) / f"shard-{item['number']:05d}"
        save_array(stem.with_suffix(".loss.npy"), np.concatenate(loss))
        save_array(stem.with_suffix(".split.npy"), np.array(splits, np.int8))
    receipt.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(receipt, json.dumps(counts._asdict()))
    return counts._asdict()


class Conversations:
    """The shards, for a rank. lengths: tokens of each conversation, at most `context`; train, heldout: numbers."""

    def __init__(self, folder: Path, context: int) -> None:
        self._source, self._context = TokenSource(folder), context
        stems = [folder / stem for stem in self._source.shards]
        self._loss = [np.load(stem.with_suffix(".loss.npy"), mmap_mode="r") for stem in stems]
        splits = np.concatenate([np.empty(0, np.int8), *(np.load(stem.with_suffix(".split.npy")) for stem in stems)])
        held = splits == _SPLITS["heldout"] if splits.any() else self._source.ids % HELDOUT_EVERY == 0
        self.train, self.heldout = np.flatnonzero(~held), np.flatnonzero(held)
        self.lengths = np.minimum(self._source.lengths, context)

    def example(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(int64 ids, bool mask of the tokens that are learned from), both with a token more than `lengths` where it
        was cut."""
        ids = self._source.tokens(number)
        shard, start = self._source.place(number)
        return ids.astype(np.int64), self._loss[shard][start : start + len(ids)]


def notes(counts: Counts, context: int) -> Iterator[str]:
    """For people: the kinds of data that were left out, a line each."""
    if counts.cut:
        yield (
            f"{counts.cut} of {counts.rows} conversations are longer than sft.context={context}: {counts.cut_tokens} "
            "tokens of their answers, and the ends of these, are not learned"
        )
    if counts.left_out:
        yield f"{counts.left_out} of {counts.rows} conversations hold no answer within sft.context={context}: left out"
    if counts.unread:
        yield unread_note("sft.data", counts.unread)


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
