"""Conversations as token shards for SFT (see `chunks.py`).

`<run>/sft/conversations/shard-NNNNN.*` are token shards (`data/tokens/shards.py`) with two arrays more: `loss`, one
entry a token, and `split`, one a conversation. A conversation's id is the number of its row, from 0.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilm_ray.alignment.chunks import HELDOUT_EVERY, SPLITS, Run, shard_files, tokenize_chunks
from ilm_ray.alignment.inputs import unread_note
from ilm_ray.base.errors import UserError
from ilm_ray.base.files import save_array
from ilm_ray.base.jsonl import JsonObject, utf8_bytes
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.chat import AnyTokenizer, encode_chat
from ilm_ray.data.tokenizer.messages import unread_fields
from ilm_ray.data.tokens.shards import ShardWriter, TokenSource

FOLDER = "conversations"
READ = frozenset({"messages", "split", "id", "domain"})  # fields of a row; the last two name it


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


def tokenize_conversations(path: Path, run_dir: Path, context: int, run: Run = run_tasks) -> tuple[Counts, list[Path]]:
    """Write the shards of a run; returns the counts of the rows by outcome, and the files. run: does the work on the
    chunks.

    Raises UserError where a conversation does not fit the chat template, or where too few are left to train on and to
    measure with.
    """
    folder, work = run_dir / "sft" / FOLDER, functools.partial(tokenize_rows, path=path, context=context)
    receipts = tokenize_chunks(path, folder, ("messages",), "sft.data", work, run_dir / "tokenizer", run)
    counts = functools.reduce(Counts.plus, (Counts(**receipt) for receipt in receipts), Counts())
    conversations = Conversations(folder, context)
    for name, found in (("train on", conversations.train), ("measure with", conversations.heldout)):
        if not len(found):
            raise UserError(
                f"sft.data: {path} has no conversation to {name}: of {counts.rows} rows {counts.left_out} hold nothing "
                f"to learn from within sft.context={context}; give more rows, or a larger sft.context"
            )
    return counts, shard_files(folder)


def tokenize_rows(
    encoder: AnyTokenizer,
    rows: Iterable[tuple[int, JsonObject]],
    folder: Path,
    shard_number: int,
    path: Path,
    context: int,
) -> JsonObject:
    """Write the shard of some rows; returns the fields of `Counts`. path: the file, for messages."""
    template = getattr(getattr(encoder, "template", None), "source", "")
    counts, loss, splits = Counts(), [np.empty(0, bool)], list[int]()
    with ShardWriter(folder, shard_number) as shard:
        for number, row in rows:
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
                splits.append(SPLITS[row.get("split")])
        stem = folder / f"shard-{shard_number:05d}"
        save_array(stem.with_suffix(".loss.npy"), np.concatenate(loss))
        save_array(stem.with_suffix(".split.npy"), np.array(splits, np.int8))
    return counts._asdict()


class Conversations:
    """The shards, for a rank. lengths: tokens of each conversation, at most `context`; train, heldout: numbers."""

    def __init__(self, folder: Path, context: int) -> None:
        self._source, self._context = TokenSource(folder), context
        stems = [folder / stem for stem in self._source.shards]
        self._loss = [np.load(stem.with_suffix(".loss.npy"), mmap_mode="r") for stem in stems]
        splits = np.concatenate([np.empty(0, np.int8), *(np.load(stem.with_suffix(".split.npy")) for stem in stems)])
        held = splits == SPLITS["heldout"] if splits.any() else self._source.ids % HELDOUT_EVERY == 0
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
