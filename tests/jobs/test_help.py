"""`--help` of real jobs: verbs, options, and the settings that the job reads."""

import subprocess
import sys
from typing import Any

import pytest

from ilm_ray.config import Config, load_config
from ilm_ray.run.stage import Stage
from jobs.online_rlhf import round_stages
from jobs.pipeline import STAGES
from tests.jobs.test_command_line import REPOSITORY


def words_of(job: str, *arguments: str) -> str:
    command = [sys.executable, f"jobs/{job}.py", *arguments, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.process
def test_a_stage_lists_what_it_reads() -> None:
    shown = words_of("tokenizer", "--preset", "7b")
    assert "--run-dir DIR" in shown and "key.sub=value" in shown and "preset 7b" in shown
    assert "tokenizer.base_choice={first,most_used}" in shown and "(default: first)" in shown
    assert "ray.hang_s=float" in shown and "ppo." not in shown


@pytest.mark.process
def test_verbs_and_their_options_are_listed() -> None:
    assert "threshold|document|batch|rollout" in words_of("explain")
    assert "--iteration" in words_of("explain", "rollout")


@pytest.mark.process
def test_serve_lists_its_settings() -> None:
    assert "serve.port=int" in words_of("serve")


@pytest.mark.parametrize("stage", [*STAGES, *round_stages(2)], ids=lambda stage: stage.name)
def test_what_is_listed_is_what_a_stage_reads(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    config, read = load_config("nano"), set[str]()
    plain = Config.__getattribute__

    def recorded(self: Config, name: str) -> Any:
        if name in Config.model_fields:
            read.add(name)
        return plain(self, name)

    monkeypatch.setattr(Config, "__getattribute__", recorded)
    stage.settings(config)
    assert read and (stage.reads or "/" in stage.name)
    assert set(stage.reads) <= Config.model_fields.keys()
    assert "/" in stage.name or read <= {"seed", *stage.reads}
