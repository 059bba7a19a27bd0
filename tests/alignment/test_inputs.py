"""People's files are refused as a whole, by setting, file and line, before any stage runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.alignment.inputs import chat_rows, preference_rows, prompt_rows
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from jobs import pipeline

ASK = [{"role": "user", "content": "Hi"}]
PAIR = {"domain": "helpful", "prompt": ASK, "chosen": "a", "rejected": "b"}
READERS: dict[str, Any] = {"sft.data": chat_rows, "reward.data": preference_rows, "ppo.prompts": prompt_rows}


@pytest.mark.parametrize(
    ("setting", "row", "words"),
    [
        ("sft.data", {"messages": [{"role": "bot", "content": "Hi"}]}, "role 'bot' must be one of"),
        ("sft.data", {"messages": "Hi"}, "the messages must be a list"),
        ("sft.data", {"messages": ["Hi"]}, "message 1 must be an object"),
        ("sft.data", {"messages": [{"role": "user", "content": None}]}, "its content a text"),
        ("reward.data", PAIR | {"domain": "poetry"}, "domain 'poetry' has no system prompt"),
        ("reward.data", PAIR | {"rejected": None}, "must be texts"),
        ("reward.data", PAIR | {"prompt": [{"content": "Hi"}]}, "role 'None'"),
        ("ppo.prompts", {"id": 1, "domain": "helpful", "prompt": [*ASK, {"role": "tool", "content": ""}]}, "message 2"),
    ],
)
def test_the_line_at_fault_is_named_before_anything_runs(
    setting: str, row: dict[str, Any], words: str, tmp_path: Path
) -> None:
    good = {"sft.data": {"messages": ASK}, "reward.data": PAIR, "ppo.prompts": {"id": 0, "domain": "x", "prompt": ASK}}
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
