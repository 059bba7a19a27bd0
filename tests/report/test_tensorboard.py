"""TensorBoard's own reader finds the numbers that the logs hold."""

import json
from pathlib import Path

from ilm_ray.report.tensorboard import scalars, write_tensorboard


def test_events_hold_the_rows(fake_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # written twice: no point may appear twice
        folder = write_tensorboard(fake_run)
        assert folder is not None
    rows = [json.loads(line) for line in (fake_run / "ppo" / "metrics.jsonl").read_text().splitlines()]
    read = EventAccumulator(str(folder / "ppo"))
    read.Reload()
    events = read.Scalars("reward_by_domain/maths")
    assert [e.step for e in events] == [row["iteration"] for row in rows]
    for event, row in zip(events, rows, strict=True):
        assert abs(event.value - row["reward_by_domain"]["maths"]) < 1e-5
    assert {p.name for p in folder.iterdir()} == {"pretrain", "sft", "reward", "ppo"}


def test_a_run_without_logs_has_no_events(tmp_path: Path) -> None:
    assert write_tensorboard(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_scalars_are_flat_and_numbers_only() -> None:
    assert dict(scalars({"a": 1, "b": {"c": 2.5, "d": {"e": 3}}, "f": True, "g": "x", "h": None})) == {
        "a": 1.0,
        "b/c": 2.5,
        "b/d/e": 3.0,
    }
