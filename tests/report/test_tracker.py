"""Rows sent to W&B and trackio, by their real packages without a network. Where they are installed, in `make test`."""

import importlib.util
import json
import sqlite3
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config.schema import TrackConfig
from ilm_ray.report import tracker
from ilm_ray.report.tracker import Tracker, require_tracker


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")


def log(run: Path, stage: str, rows: list[dict[str, object]]) -> None:
    (run / stage).mkdir(parents=True, exist_ok=True)
    with (run / stage / "metrics.jsonl").open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def follow(track: TrackConfig, run: Path) -> list[str]:
    said: list[str] = []
    with Tracker(track, run, {"seed": 1}, said.append):
        pass  # leaving sends what there is
    return said


@pytest.mark.process  # a server and git of the package
def test_trackio_gets_every_step_once_over_two_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    run, track = tmp_path / "runs", TrackConfig(to="trackio", project="ours")
    log(run, "pretrain", [{"global_step": 10, "loss": 3.5, "phase": "early"}, {"global_step": 20, "loss": 3.0}])
    assert follow(track, run) == []
    log(run, "pretrain", [{"global_step": 20, "loss": 9.0}, {"global_step": 30, "loss": 2.5}])  # 20 was repeated
    log(run, "ppo", [{"iteration": 0, "reward": 0.25, "seconds": {"all": 2.0}}])
    assert follow(track, run) == []
    rows = []
    for file in sorted((tmp_path / "trackio").rglob("*.db")):
        with sqlite3.connect(file) as base:
            names = [row[0] for row in base.execute("select name from sqlite_master where type='table'")]
            rows += base.execute("select run_name, step, metrics from metrics").fetchall() if "metrics" in names else []
    found = {(name, step): json.loads(text) for name, step, text in rows}
    assert len(found) == len(rows)
    assert {k: v.get("loss", v.get("reward")) for k, v in found.items()} == {
        ("runs-pretrain", 10): 3.5, ("runs-pretrain", 20): 3.0, ("runs-pretrain", 30): 2.5, ("runs-ppo", 0): 0.25,
    }  # fmt: skip
    assert found["runs-ppo", 0]["seconds/all"] == 2.0 and "phase" not in found["runs-pretrain", 10]


@pytest.mark.process
def test_wandb_writes_its_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = tmp_path / "runs"
    log(run, "sft", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    log(run, "reward", [{"step": 1, "loss": 0.7}])
    assert follow(TrackConfig(to="wandb"), run) == []
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.stat().st_size > 0 for file in files)
    assert json.loads((run / tracker.SENT).read_text()) == {"sft": 2, "reward": 1}


def test_a_service_that_fails_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text("def init(**k):\n    raise OSError('no network')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    log(tmp_path / "runs", "sft", [{"step": 1, "loss": 2.0}])
    assert follow(TrackConfig(to="wandb"), tmp_path / "runs") == ["wandb gets no further rows: OSError: no network"]
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)


def test_a_service_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text("import time\n\ndef init(**k):\n    time.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "trackio", raising=False)
    monkeypatch.setattr(tracker, "CLOSE_S", 0.5)
    log(tmp_path / "runs", "sft", [{"step": 1, "loss": 2.0}])
    said = follow(TrackConfig(to="trackio"), tmp_path / "runs")
    assert said == ["trackio did not take the last rows within 0 s"]
    monkeypatch.delitem(__import__("sys").modules, "trackio", raising=False)


def test_nothing_is_sent_or_required_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, "sft", [{"step": 1, "loss": 2.0}])
    assert follow(TrackConfig(), tmp_path) == [] and not (tmp_path / tracker.SENT).exists()
    require_tracker(TrackConfig())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        require_tracker(TrackConfig(to="wandb"))
