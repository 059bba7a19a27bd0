"""Goodput counts the time of steps that stay, whatever was done twice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ilm_ray.training.logs import TrainingLog, useful_seconds


def row(step: int, seconds: float, data: float, checkpoint: float, evaluation: float = 0.0) -> dict[str, Any]:
    """As the loop's meter makes it: 1,000 tokens a step, 10 steps a row."""
    training = seconds - evaluation
    return {
        "step": step,
        "loss": 1.0,
        "tokens": step * 1000,
        "tokens_per_second": 10_000 / training,
        "data_share": data / training,
        "checkpoint_share": checkpoint / training,
    }


def test_waits_and_evaluation_are_not_useful() -> None:
    assert useful_seconds(row(20, 30.0, data=4.0, checkpoint=5.0, evaluation=6.0), 10_000) == pytest.approx(15.0)


def test_steps_done_again_count_once(tmp_path: Path) -> None:
    task = cast(Any, SimpleNamespace(steps=40, phases=()))
    log = TrainingLog(tmp_path, task, 0)
    log({"step": 0, "begins": True})
    for step in (10, 20, 30):
        log(row(step, 10.0, 1.0, 0.0))
    assert log._useful == pytest.approx(27.0)
    again = TrainingLog(tmp_path, task, 0)  # another process, from the checkpoint of step 20
    again({"step": 20, "begins": True})
    assert again._useful == pytest.approx(18.0)
    again(row(30, 5.0, 0.0, 0.0))
    assert again._useful == pytest.approx(23.0)
    again({"step": 30, "incident": "spike", "why": "", "action": "", "back_to": 10})
    assert again._useful == pytest.approx(9.0)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [10]
