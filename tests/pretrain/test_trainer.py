"""The loop inside Ray Train: a worker that dies is replaced, and the run ends with the weights of one that did not."""

import json
from pathlib import Path

import pytest

from ilm_ray.config import Config, load_config
from ilm_ray.corpus.stage import Context
from ilm_ray.observe.journal import Journal
from ilm_ray.parallel.layout import Layout
from ilm_ray.pretrain.trainer import run_training
from tests.pretrain.test_loop import Toy, differences, run
from tests.processes import run_ranks


class DyingOnce(Toy):
    """Kills its worker at step 5, the first time only."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(None)
        self.marker = run_dir / "died"

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[object]:
        if step == 5 and rank == 1 and not self.marker.exists():
            self.marker.touch()
            self.die_at = 5
        return super().micro_batches(step, rank, ranks)

    def before_step(self, model: object, step: int, evaluate: object) -> dict[str, object] | None:
        return {"evaluations": [{"when": "start"}]} if step == 0 else None


def make_task(config: Config, run_dir: Path) -> DyingOnce:
    return DyingOnce(run_dir)


def test_a_killed_worker_costs_no_result(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["pretrain.clip_norm=0.5"])
    folder = tmp_path / "run" / "toy"
    folder.mkdir(parents=True)
    context = Context(config, folder, folder.parent, Journal(folder / "journal.jsonl"))
    result = run_training(context, make_task, weight_decay=0.1)
    assert (folder.parent / "died").exists()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len(result.metrics["evaluations"]) == 1
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9


@pytest.mark.slow
def test_workers_that_share_the_model_give_the_weights_of_one(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["pretrain.workers=4", "pretrain.clip_norm=0.5"])
    folder = tmp_path / "run" / "toy"
    folder.mkdir(parents=True)
    context = Context(config, folder, folder.parent, Journal(folder / "journal.jsonl"))
    layout = Layout(pp=2, tp=2, sequence_parallel=True, gradients="replica")
    run_training(context, lambda _config, _run_dir: Toy(), weight_decay=0.1, layout=layout)
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = json.loads((tmp_path / "alone" / "rows-0.json").read_text())
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=1e-9)
