"""jobs/verify.py on a run of two stages: whole, damaged, and made from what is no longer there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest
from jobs import verify
from tests.alignment.test_checkpoint_record import FILES, made


def stage(run: Path, name: str, **inputs: str) -> Manifest:
    (run / name).mkdir(parents=True, exist_ok=True)
    (run / name / "out.txt").write_text(name)
    manifest = Manifest(name, {}, inputs, manifests.describe_files(run / name, [run / name / "out.txt"]))
    manifests.commit(run / name, manifest)
    return manifest


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    first = stage(tmp_path, "sft")
    stage(tmp_path, "ppo", sft=first.fingerprint)
    made(tmp_path / "ppo", 2)
    return tmp_path


def job(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[str]]]:
    code = verify.main(["--run-dir", str(run)])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1]).get("wrong")


def test_a_whole_run_is_said_to_be_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert job(run, capsys) == (0, {})
    assert sorted(run.rglob("*")) == before, "nothing was written"


def test_damage_and_other_inputs_are_named_by_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "sft" / "out.txt").write_text("tfs")
    (run / "ppo" / "checkpoints" / "iteration-000002" / FILES[0]).unlink()
    code, wrong = job(run, capsys)
    assert code == 2 and wrong == {
        "sft": ["out.txt has another SHA-256 than when it was written"],
        "ppo": [f"iteration-000002: {FILES[0]} is missing"],
    }
    manifest = manifests.load(run / "sft")
    assert manifest is not None
    manifests.commit(run / "sft", replace(manifest, settings={"seed": 2}))
    assert "input 'sft' is no longer what it was made from" in job(run, capsys)[1]["ppo"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job(tmp_path, capsys)[0] == 2
