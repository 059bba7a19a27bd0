"""The whole nano pipeline, submitted to a Ray of three nodes, of which one is lost in each of three stages."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.config.road import STAGES
from ilm_ray.run.journal import read_journal
from tests.chaos.nodes import Nodes
from tests.chaos.test_killed_driver import lines

ROOT = Path(__file__).parents[2]
REPLACED_AFTER_S = 10.0  # by whoever scales the cluster
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes with networks of their own need root: run as root"),
]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(ROOT, tmp_path / "nodes", dashboard=True) as up:
        yield up


def ray_job(nodes: Nodes, *words: str) -> str:
    command = [str(Path(sys.executable).with_name("ray")), "job", words[0], "--address", nodes.url, *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=nodes.env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def status(nodes: Nodes) -> str:
    with urllib.request.urlopen(f"{nodes.url}/api/jobs/nano", timeout=60) as answer:
        return str(json.loads(answer.read())["status"])


def wait_for(nodes: Nodes, reached: Callable[[], Any], seconds: float) -> Any:
    """What `reached` gives as soon as that is something."""
    checked_at = time.monotonic()
    deadline = checked_at + seconds
    while not (value := reached()):
        assert time.monotonic() < deadline
        if time.monotonic() > checked_at + 20:
            checked_at = time.monotonic()
            ended = status(nodes) in ("FAILED", "SUCCEEDED", "STOPPED")
            assert not ended or reached(), ray_job(nodes, "logs", "nano")[-3000:]
        time.sleep(0.5)
    return value


def test_a_submitted_run_that_loses_a_node_in_text_pretraining_and_ppo_finishes(nodes: Nodes, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [sys.executable, "jobs/pipeline.py", "--preset", "nano", "--run-dir", str(run_dir)]
    ray_job(nodes, "submit", "--no-wait", "--submission-id", "nano", "--working-dir", str(ROOT), "--", *words)
    begun = {
        "text": lambda: any((run_dir / "text").glob("*/kept-*")),
        "pretrain": lambda: lines(run_dir / "pretrain" / "metrics.jsonl") >= 12,
        "ppo": lambda: lines(run_dir / "ppo" / "metrics.jsonl") >= 5,
    }
    for stage, reached in begun.items():
        busy = wait_for(nodes, lambda reached=reached: reached() and nodes.busy(), 1800)
        assert not (run_dir / stage / "manifest.json").exists(), f"{stage} ended before it could be hit"
        nodes.lose(busy[0])
        time.sleep(REPLACED_AFTER_S)
        nodes.add()
    wait_for(nodes, lambda: status(nodes) == "SUCCEEDED", 1800)

    summaries = [line for line in ray_job(nodes, "logs", "nano").splitlines() if line.startswith('{"job"')]
    assert json.loads(summaries[-1])["status"] == "done"
    runs = [event["stage"] for event in read_journal(run_dir / "journal.jsonl") if event["kind"] == "run"]
    # None began twice: each survived the loss by itself.
    assert [stage for stage in runs if stage in STAGES] == list(STAGES)
    assert len(list((run_dir / "pretrain" / "attempts").glob("attempt-*"))) > 1
    steps = [row["step"] for row in read_journal(run_dir / "pretrain" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 570
