"""Conversations are tokenised once, in chunks: against each row encoded alone. Whatever is left out is counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from ilm_ray.alignment import chunks
from ilm_ray.alignment.chunks import chunks_of
from ilm_ray.alignment.conversations import FOLDER, Conversations, Counts, notes, tokenize_conversations
from ilm_ray.alignment.sft import SFTTask, chat_labels
from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.model.loss import IGNORE
from tests.alignment.small_run import config_of, in_process, make_run

CONTEXT = 64


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" + "\n" * (n % 3 == 0) for n, row in enumerate(rows)))
    return path


def done(path: Path, run_dir: Path, context: int = CONTEXT) -> Counts:
    return tokenize_conversations(path, run_dir, context, in_process)[0]


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    make_run(tmp_path)
    return tmp_path


@pytest.mark.parametrize("rows_a_chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_each_conversation_is_what_it_is_alone(
    rows_a_chunk: int, packed: bool, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [talk("q" * (1 + i % 5), "a" * (7 * i % 80)) for i in range(20)]
    path = written(run / "talks.jsonl", rows)
    if packed:
        packed_path = run / "talks.jsonl.zst"
        packed_path.write_bytes(zstandard.compress(path.read_bytes()))
        path = packed_path
    monkeypatch.setattr(chunks.chunks_of, "__defaults__", (rows_a_chunk,))
    assert len(chunks_of(path)) == (1 if packed else -(-20 // rows_a_chunk))
    counts = done(path, run)
    made, tokenizer = Conversations(run / "sft" / FOLDER, CONTEXT), open_tokenizer(run / "tokenizer")
    task = SFTTask(config_of(run), run)
    held = [i for i in range(20) if i % 10 == 0]
    assert made.heldout.tolist() == held and sorted([*made.train, *held]) == list(range(20))
    for number, row in enumerate(rows):
        ids, mask = encode_chat(tokenizer, row["messages"])
        assert task.example(number)[0].tolist() == ids[:CONTEXT] and made.lengths[number] == min(len(ids), CONTEXT)
        assert task.example(number)[1].tolist() == chat_labels(ids, mask)[:CONTEXT].tolist()
    lost = [sum(encode_chat(tokenizer, row["messages"]).loss_mask[CONTEXT + 1 :]) for row in rows]
    assert (counts.cut, counts.cut_tokens) == (sum(map(bool, lost)), sum(lost)) and counts.cut > 3
    assert counts.rows == 20 and counts.left_out == 0 and counts.unread == {}


def test_what_cannot_be_learned_from_is_left_out_and_counted(run: Path) -> None:
    rows = [talk("word " * 50, "Yes."), talk("q", "Yes." * 40), *[talk("q", "a") | {"source": "x"} for _ in range(30)]]
    rows[5]["messages"][1]["mood"] = "kind"
    counts = done(written(run / "talks.jsonl", rows), run)
    assert (counts.rows, counts.left_out, counts.cut) == (32, 1, 1)
    assert counts.unread == {"source": 30, "messages.mood": 1}
    said = " ".join(notes(counts, CONTEXT))
    assert "1 of 32 conversations hold no answer within sft.context=64" in said
    assert f"{counts.cut_tokens} tokens of their answers" in said and "source (30 rows)" in said
    made = Conversations(run / "sft" / FOLDER, CONTEXT)
    assert len(made.train) + len(made.heldout) == 31
    assert list(notes(Counts(rows=3), CONTEXT)) == []


def test_a_rows_split_decides_where_rows_have_one(run: Path) -> None:
    rows = [talk("q", "a") | ({"split": "heldout"} if i in (3, 4) else {"split": "train"} if i % 2 else {})
            for i in range(12)]  # fmt: skip
    done(written(run / "talks.jsonl", rows), run)
    assert Conversations(run / "sft" / FOLDER, CONTEXT).heldout.tolist() == [3, 4]


def test_too_little_to_learn_from_is_refused(run: Path) -> None:
    rows = [talk("word " * 50, "Yes.") for _ in range(10)]
    with pytest.raises(UserError, match=r"to train on: of 10 rows 10 hold nothing .* larger sft\.context"):
        done(written(run / "talks.jsonl", rows), run)


def test_a_chunk_that_is_done_is_not_done_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks.chunks_of, "__defaults__", (5,))
    path = written(run / "talks.jsonl", [talk("q", "a" * i) for i in range(20)])
    asked = list[int]()

    def killed(items: list[Any], work: Any) -> Any:
        for item in items[:2]:
            yield work(item)
        raise KeyboardInterrupt

    def watched(items: list[Any], work: Any) -> Any:
        for item in items:
            asked.append(item["number"])
            yield work(item)

    with pytest.raises(KeyboardInterrupt):
        tokenize_conversations(path, run, CONTEXT, killed)
    folder = run / "sft" / FOLDER
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("shard-*")}
    resumed = tokenize_conversations(path, run, CONTEXT, watched)[0]
    assert len(before) > 0 and all((folder / name).stat().st_mtime_ns == time for name, time in before.items())
    content = {p.name: p.read_bytes() for p in folder.glob("shard-*")}
    for p in [*folder.glob("shard-*"), *folder.glob("receipts/*")]:
        p.unlink()
    assert done(path, run) == resumed and {p.name: p.read_bytes() for p in folder.glob("shard-*")} == content


def test_weight_and_train_say_which_messages_are_learned_from(run: Path) -> None:
    tokenizer = open_tokenizer(run / "tokenizer")
    plain = [*talk("q", "first")["messages"], *talk("r", "second")["messages"]]
    whole = encode_chat(tokenizer, plain)
    for marks in ({"weight": 0}, {"train": False}, {"weight": 0.0, "train": False}):
        messages = [plain[0], plain[1] | marks, *plain[2:3], plain[3] | {"weight": 1}]
        ids, mask = encode_chat(tokenizer, messages)
        assert ids == whole.ids
        counted = np.array(ids)[np.array(mask, dtype=bool)]
        assert counted.tolist() == [*b"second", tokenizer.turn_end_id]
    labels = chat_labels(*whole)
    assert (labels != IGNORE).sum() == len("first") + len("second") + 2
