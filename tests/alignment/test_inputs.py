"""People's files are refused as a whole, by setting, file and line, before any stage runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.alignment.inputs import check_chats, mixed_sequences, preference_rows, prompt_rows, unread_notes
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from jobs import pipeline

ASK = [{"role": "user", "content": "Hi"}]
PAIR = {"domain": "helpful", "prompt": ASK, "chosen": "a", "rejected": "b"}
TALK = [*ASK, {"role": "assistant", "content": "Hello."}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}
READERS: dict[str, Any] = {
    "sft.data": check_chats,
    "reward.data": lambda config: list(preference_rows(config)),
    "ppo.prompts": prompt_rows,
}


@pytest.mark.parametrize(
    ("setting", "row", "words"),
    [
        ("sft.data", {"messages": [{"role": "bot", "content": "Hi"}]}, "role 'bot' must be one of"),
        ("sft.data", {"messages": "Hi"}, "the messages must be a list"),
        ("sft.data", {"messages": ["Hi"]}, "message 1 must be an object"),
        ("sft.data", {"messages": [{"role": "user", "content": None}]}, "its content a text"),
        ("sft.data", {"messages": []}, "it has no messages; take it out"),
        ("sft.data", {"messages": ASK}, "it has no message of role 'assistant'"),
        ("sft.data", {"messages": [*ASK, TALK[1] | {"weight": 0}]}, "none of its assistant's messages counts"),
        ("sft.data", {"messages": [*ASK, TALK[1] | {"weight": 0.5}]}, "weight is 0.5; it must be 0 or 1"),
        ("sft.data", {"messages": [*ASK, TALK[1] | {"weight": 1, "train": False}]}, "say different things"),
        ("sft.data", {"messages": [ASK[0] | {"train": True}, TALK[1]]}, "only an assistant's message can be learned"),
        ("sft.data", {"messages": [*ASK, CALL]}, "the arguments of tool call 'f' must be a JSON object"),
        ("sft.data", {"messages": TALK, "split": "test"}, "split 'test', which nothing reads"),
        ("reward.data", PAIR | {"split": "Train"}, "split 'Train', which nothing reads"),
        ("ppo.prompts", {"id": 1, "domain": "helpful", "prompt": ASK, "split": "validation"}, "split 'validation'"),
        ("reward.data", PAIR | {"domain": "poetry"}, "domain 'poetry' has no system prompt"),
        ("reward.data", PAIR | {"rejected": None}, "must be texts"),
        ("reward.data", PAIR | {"prompt": [{"content": "Hi"}]}, "role 'None'"),
        ("ppo.prompts", {"id": 1, "domain": "helpful", "prompt": [*ASK, {"role": "bot", "content": ""}]}, "message 2"),
    ],
)
def test_the_line_at_fault_is_named_before_anything_runs(
    setting: str, row: dict[str, Any], words: str, tmp_path: Path
) -> None:
    good = {"sft.data": {"messages": TALK}, "reward.data": PAIR, "ppo.prompts": {"id": 0, "domain": "x", "prompt": ASK}}
    path = tmp_path / "rows.jsonl"
    rows = [good[setting], row]
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    config = load_config("nano", None, [f"{setting}={path}"])
    with pytest.raises(UserError, match="line 2") as refused:
        READERS[setting](config)
    assert words in str(refused.value) and str(refused.value).startswith(f"{setting}: {path}")
    # The pipeline asks every stage before the first one runs.
    with pytest.raises(UserError, match="line 2"):
        for stage in pipeline.STAGES:
            stage.sources(config)


def test_what_ships_with_the_demo_is_read_by_all() -> None:
    config = load_config("nano", None, [])
    assert all(reader(config) for reader in READERS.values())


@pytest.mark.parametrize("setting", READERS)
def test_a_file_that_no_setting_names_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=rf"^{setting} is not set; give a file of "):
        READERS[setting](load_config("nano", None, [f"{setting}=null"]))


def test_the_demos_files_are_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("nano")
    monkeypatch.chdir(tmp_path)  # as a Ray worker's may be another than its driver's
    assert all(reader(config) for reader in READERS.values())


def test_too_few_conversations_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    for rows, words in (
        ([{"messages": TALK}], "has one row"),
        ([{"messages": TALK, "split": "train"}] * 3, 'no row of split "heldout"'),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=words):
            check_chats(load_config("nano", None, [f"sft.data={path}"]))


def test_a_share_that_comes_to_no_sequence_is_refused_with_what_would_do() -> None:
    words = ["sft.pretrain_share=0.1", "sft.context=4096", "sft.batch_tokens=4096"]
    with pytest.raises(UserError, match=r"raise sft\.batch_tokens to \d+") as refused:
        mixed_sequences(load_config("nano", None, words).sft)
    enough = int(str(refused.value).partition("sft.batch_tokens to ")[2].partition(",")[0])
    assert mixed_sequences(load_config("nano", None, [*words[:2], f"sft.batch_tokens={enough}"]).sft) == 1
    with pytest.raises(UserError):
        mixed_sequences(load_config("nano", None, [*words[:2], f"sft.batch_tokens={enough - 2}"]).sft)
    assert mixed_sequences(load_config("nano", None, ["sft.pretrain_share=0", *words[1:]]).sft) == 0


def test_fields_that_nothing_reads_are_named_with_their_rows() -> None:
    rows = [
        PAIR | {"source": "x", "split": "train", "note": None},
        PAIR,
        {**PAIR, "prompt": [ASK[0] | {"mood": 1}] * 2},
    ]
    assert unread_notes(rows, "reward.data") == [
        "fields of reward.data that nothing reads: messages.mood (1 rows), source (1 rows)"
    ]
    assert unread_notes([PAIR, PAIR], "reward.data") == []
    config = load_config("nano")
    assert (
        unread_notes(preference_rows(config), "reward.data") == unread_notes(prompt_rows(config), "ppo.prompts") == []
    )
