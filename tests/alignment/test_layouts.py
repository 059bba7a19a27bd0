"""SFT and reward model train in every kind of layout as one process does: losses, gradient norms, held-out figures."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.alignment.reward.task import RewardTask
from ilm_ray.alignment.sft import SFTTask
from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import LoopSettings, train
from ilm_ray.training.plan.cards import DEVICES
from tests.alignment.small_run import config_of
from tests.processes import run_ranks

TASKS: dict[str, Any] = {"sft": SFTTask, "reward": RewardTask}
PARTIAL = {"parameters": "partial", "gradients": "partial", "optimizer": "partial", "shard_group": 2}
LAYOUTS = {
    "dp4, partial": Layout.model_validate(PARTIAL),
    "dp4, replica": Layout(parameters="replica", gradients="replica", optimizer="replica"),
    "dp2 tp2": Layout(tp=2),
    "dp2 tp2 sp": Layout(tp=2, sequence_parallel=True),
    "dp2 cp2": Layout(cp=2),
    "dp2 pp2": Layout(pp=2, gradients="replica"),
}
# `make test` sees each layout with one of the two tasks, and the model in all of them (tests/training/parallel).
SEEN = {"sft": ("dp4, replica", "dp2 tp2 sp", "dp2 pp2"), "reward": ("dp4, partial", "dp2 tp2", "dp2 cp2")}
CASES = [
    pytest.param(kind, name, marks=() if name in SEEN[kind] else pytest.mark.slow) for kind in TASKS for name in LAYOUTS
]
STEPS = 4


def run(kind: str, run_dir: str, folder: str, layout: Layout | None = None) -> None:
    """The first steps of a task as Ray Train's workers make them; every rank leaves its rows."""
    rank, ranks, path = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(folder)
    config = config_of(Path(run_dir), layout, ranks)
    task = TASKS[kind](config, Path(run_dir))
    task.steps = STEPS
    plan = task.lay_out(ranks, DEVICES["cpu"])
    assert plan.used == ranks
    settings = LoopSettings("fp32", (0.9, 0.95), 1e-8, 0.1, 1.0, Storage(), plan.all[0].layout)
    rows: list[dict[str, Any]] = []
    train(task, settings, path, rows.append, Watch(path / "watch", rank, 60.0))
    (path / f"rows-{rank}.json").write_text(json.dumps([row for row in rows if "begins" not in row]))


@pytest.fixture(scope="module")
def alone(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    rows = {}
    for kind in TASKS:
        folder = tmp_path_factory.mktemp(kind)
        run_ranks(run, 1, kind, str(run_dir), str(folder))
        rows[kind] = json.loads((folder / "rows-0.json").read_text())
    return rows


@pytest.mark.ranks
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_layout_trains_as_one_process(kind: str, name: str, run_dir: Path, alone: Any, tmp_path: Path) -> None:
    run_ranks(run, 4, kind, str(run_dir), str(tmp_path), LAYOUTS[name], deadline_s=280)
    rows = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in range(4)]
    steps = [row for row in alone[kind] if "loss" in row]
    assert len(steps) == STEPS and len({row["loss"] for row in steps}) == STEPS
    for ranks_rows in rows:
        trained = [row for row in ranks_rows if "loss" in row]
        for expected, other in zip(steps, trained, strict=True):
            assert other["loss"] == pytest.approx(expected["loss"], abs=1e-5)
            assert other["grad_norm"] == pytest.approx(expected["grad_norm"], abs=1e-4)
            assert other["tokens"] == expected["tokens"]
        assert _flat([row for row in ranks_rows if "evaluations" in row]) == pytest.approx(
            _flat([row for row in alone[kind] if "evaluations" in row]), abs=1e-4
        )


def test_a_reward_model_takes_the_ranks_of_a_pipeline_for_replicas(run_dir: Path) -> None:
    config = config_of(run_dir, Layout(pp=2, tp=2, gradients="replica"), 8)
    plan = RewardTask(config, run_dir).lay_out(8, DEVICES["cpu"])
    assert (plan.used, plan.all[0].layout.dp, plan.all[0].layout.tp, plan.all[0].layout.pp) == (8, 4, 2, 1)
    assert "no pipeline" in plan.why
    fine_tuning = SFTTask(config, run_dir).lay_out(8, DEVICES["cpu"])
    assert (fine_tuning.all[0].layout.dp, fine_tuning.all[0].layout.pp, fine_tuning.why) == (2, 2, "")


def test_fewer_workers_keep_the_degrees_and_too_few_are_refused(run_dir: Path) -> None:
    task = SFTTask(config_of(run_dir, Layout(tp=2), 8), run_dir)
    plan = task.lay_out(7, DEVICES["cpu"])
    assert (plan.used, plan.all[0].layout.dp, plan.why) == (6, 3, "7 workers: 1 idle")
    with pytest.raises(UserError, match="2 ranks make one model, there are 1 workers"):
        task.lay_out(1, DEVICES["cpu"])
    with pytest.raises(UserError, match="must divide kv_heads=2"):
        SFTTask(config_of(run_dir, Layout(tp=4), 4), run_dir).lay_out(4, DEVICES["cpu"])


def _flat(value: Any, path: str = "") -> dict[str, float]:
    """Every number in it by its place; bins of calibration are left out: a rounding may move a pair to the next."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for number, part in enumerate(value) for k, v in _flat(part, f"{path}.{number}").items()}
    return {} if "calibration" in path or not isinstance(value, (int, float)) else {path: float(value)}
