"""The job: what it refuses, and that a killed one ends with the table of one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from actors.evaluator import scored
from ilm_ray.evaluation.data import write_data
from tests.evaluation.known import Knowing, Served, items

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 1500.0


def _command(run: Path, *settings: str) -> list[str]:
    return [sys.executable, "jobs/benchmarks.py", "--run-dir", str(run), *(f"benchmarks.{s}" for s in settings)]


@pytest.mark.process
@pytest.mark.usefixtures("python")
def test_a_model_or_data_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "root" / "data").mkdir(parents=True)
    for settings, refusal in (
        (("data=/nowhere", "model=/nowhere"), "benchmarks.data=/nowhere must be a folder"),
        ((f"data={tmp_path / 'root'}", f"model={tmp_path}"), "holds no weights"),
        ((f"data={tmp_path / 'root'}",), "benchmarks.model is not set"),
    ):
        done = subprocess.run(
            _command(tmp_path / "run", *settings), cwd=REPOSITORY, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 2 and refusal in json.loads(done.stdout.splitlines()[-1])["error"]
        assert not (tmp_path / "run").exists()


def test_a_result_that_says_what_a_node_lacked_is_asked_again(tmp_path: Path) -> None:
    assert not scored(tmp_path / "set.json")
    for row, done in (({"lacks": "go is not installed"}, False), ({"score": 0.0}, True)):
        (tmp_path / "set.json").write_text(json.dumps(row))
        assert scored(tmp_path / "set.json") is done


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("python")
def test_a_killed_job_goes_on_and_ends_with_the_same_table(shared_data: Path, tmp_path: Path) -> None:
    write_data(shared_data / "eval", tmp_path / "root")
    with Served(Knowing(items(shared_data / "eval"), right=True)) as served:
        settings = (f"data={tmp_path / 'root'}", f"model={served.url}", "context=200000", "suite=smoke")
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        subprocess.run(_command(whole, *settings), cwd=REPOSITORY, check=True, timeout=DEADLINE_S)
        first = subprocess.Popen(_command(killed, *settings), cwd=REPOSITORY, start_new_session=True)
        until = time.monotonic() + DEADLINE_S
        while len(_results(killed)) < 3:
            assert first.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        before = {path: path.stat().st_mtime_ns for path in _results(killed)}
        subprocess.run(_command(killed, *settings), cwd=REPOSITORY, check=True, timeout=DEADLINE_S)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert _table(killed) == _table(whole)


def _results(run: Path) -> list[Path]:
    return sorted((run / "benchmarks" / "results").rglob("*.json"))


def _table(run: Path) -> Any:
    """The rows less what a clock says."""
    rows = json.loads((run / "benchmarks" / "benchmarks.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
