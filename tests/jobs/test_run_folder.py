"""What a run folder remembers: against a model in plain dicts, and in real jobs."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config, save_config
from ilm_ray.config.run_folder import NAME, choose_settings
from ilm_ray.run.lock import only_driver
from tests.jobs.test_command_line import REPOSITORY, run_job

PRESET = st.sampled_from([None, None, "nano", "1_8b"])
WORD = st.one_of(
    st.integers(1, 3).map("seed={}".format),
    st.integers(1, 3).map("ppo.iterations={}".format),
    st.sampled_from(["poetry", "code"]).map("reward.system_prompts.{}=Score it.".format),
)
COMMANDS = st.lists(st.tuples(PRESET, st.lists(WORD, max_size=2), st.booleans()), min_size=1, max_size=5)


@pytest.mark.long
@given(COMMANDS)
@settings(max_examples=15)
def test_each_job_has_what_the_commands_since_the_last_preset_said(
    commands: list[tuple[str | None, list[str], bool]],
) -> None:
    """The oracle: all words given since a preset was last named, in order, over that preset. A refused job, which
    remembers nothing, has no say."""
    preset, words = "nano", list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for named, given_now, refused in commands:
            chosen = choose_settings(named, None, given_now, Path(folder))
            expected = [*(words if named is None else []), *given_now]
            assert chosen.config == load_config(named or preset, None, expected)
            assert chosen.note is None or "\n" not in chosen.note
            if not refused:
                preset, words = named or preset, expected
                save_config(chosen.config, chosen.run_dir / NAME)


def test_what_is_taken_up_and_what_is_not_is_said(tmp_path: Path) -> None:
    def said(preset: str | None, *words: str) -> str:
        chosen = choose_settings(preset, None, words, tmp_path)
        save_config(chosen.config, tmp_path / NAME)
        return chosen.note or ""

    assert said("nano", "ppo.iterations=3") == ""
    assert said("nano", "ppo.iterations=3") == "", "the same command again"
    assert "settings are those of" in said(None) and "instead of" not in said(None)
    assert "but ppo.iterations 4 instead of 3" in said(None, "ppo.iterations=4")
    assert "settings are not all those of" in said("nano") and said("nano") == ""
    assert "preset 1_8b takes the place of preset nano" in said("1_8b")
    assert "from preset 1_8b" in said(None, "seed=5")


def test_a_file_goes_on_top_of_what_is_remembered(tmp_path: Path) -> None:
    save_config(load_config("nano", None, ["seed=5", "ppo.iterations=3"]), tmp_path / NAME)
    (tmp_path / "mine.yaml").write_text("ppo: {iterations: 7}\n")
    config = choose_settings(None, tmp_path / "mine.yaml", ["evaluation.samples=2"], tmp_path).config
    assert (config.seed, config.ppo.iterations, config.evaluation.samples) == (5, 7, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"seed: 1\n",
        b"# resolved from preset 70b\nseed: 1\n",
        b"# resolved from preset nano\nsed: 1\n",
        b"\xff\xfe",
    ],
)
def test_a_file_that_cannot_be_taken_up_is_refused_or_written_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UserError, match="or name a --preset"):
        choose_settings(None, None, [], tmp_path)
    chosen = choose_settings("nano", None, [], tmp_path)
    assert chosen.config == load_config("nano") and "written anew" in (chosen.note or "")


@pytest.mark.process
def test_a_job_takes_up_what_its_folder_remembers(tmp_path: Path) -> None:
    save_config(load_config("nano", None, ["sft.data=/nowhere.jsonl"]), tmp_path / NAME)
    before = (tmp_path / NAME).read_bytes()
    code, _, lines = run_job("sft", "--run-dir", str(tmp_path))
    assert code == 2 and len(lines) == 2
    assert "settings are those of" in lines[0] and "/nowhere.jsonl does not exist" in lines[1]
    assert (tmp_path / NAME).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [NAME]


@pytest.mark.process
def test_a_second_driver_is_refused_before_it_starts_anything(tmp_path: Path) -> None:
    source, run_dir = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    run_dir.mkdir()
    (source / "m.py").write_text("x = 1\n")
    with only_driver(run_dir, "jobs/pipeline.py"):
        before = sorted(run_dir.rglob("*"))
        code, summary, lines = run_job("code_data", "--run-dir", str(run_dir), f"code.source={source}")
        assert code == 2 and summary["status"] == "refused" and len(lines) == 1
        assert f"in use by jobs/pipeline.py on host {os.uname().nodename}, process {os.getpid()};" in lines[0]
        assert sorted(run_dir.rglob("*")) == before


@pytest.mark.slow
def test_a_later_job_skips_what_an_earlier_one_did_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(3):
        (tmp_path / "source" / f"m{number}.py").write_text(
            f'"""Part {number}."""\n\n\ndef f{number}(x):\n    return x\n'
        )
    run_dir = tmp_path / "run"

    def kinds(*words: str) -> list[str]:
        known = len((run_dir / "journal.jsonl").read_text().splitlines()) if run_dir.exists() else 0
        done = subprocess.run(
            [sys.executable, "jobs/code_data.py", "--run-dir", str(run_dir), "ray.dashboard=false", *words],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line)["kind"] for line in (run_dir / "journal.jsonl").read_text().splitlines()[known:]]

    assert "run" in kinds(f"code.source={tmp_path / 'source'}", "code.max_files=2")
    assert [kind for kind in kinds() if kind in ("run", "skip")] == ["skip"]
    assert "run" in kinds("code.max_files=3")
    assert "run" in kinds("--preset", "nano", f"code.source={tmp_path / 'source'}"), "it begins from the preset"
