"""The loop inside Ray Train: a worker that dies is replaced, and the run ends with the weights of one that did not."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.layout import Layout
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import Context
from ilm_ray.run.stopping import Stopped
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.stretches import Stretch, Stretches
from tests.processes import run_ranks
from tests.training.test_loop import Toy, differences, load_weights, run


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


class StoppingItsDriver(Toy):
    """Sends the driver the signal of Ctrl-C at step 2, that of `ray job stop` at step 4, once each."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(None)
        self.driver = run_dir / "driver"

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[object]:
        number = {2: signal.SIGINT, 4: signal.SIGTERM}.get(step)
        sent = self.driver.with_name(f"signal-{number}")
        if number and rank == 0 and not sent.exists():
            sent.touch()
            os.kill(int(self.driver.read_text()), number)
            time.sleep(1)  # the driver needs a moment
        return super().micro_batches(step, rank, ranks)


def run_training(*arguments: Any, **named: Any) -> Any:
    from ilm_ray.training import ray_train  # Ray Train takes a second to import

    return ray_train.run_training(*arguments, **named)


def make_stopping(config: Config, run_dir: Path) -> StoppingItsDriver:
    return StoppingItsDriver(run_dir)


@pytest.mark.long
def test_a_run_folder_may_have_any_name() -> None:
    from ilm_ray.training.ray_train import plain_name

    for name, plain in {"中文": "run", "a b/c": "a-b-c", "": "run", "x" * 200: "x" * 40, "run_1-b": "run_1-b"}.items():
        assert plain_name(name) == plain


@pytest.mark.slow
def test_a_stopped_driver_leaves_a_checkpoint_and_goes_on_from_it(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["training.clip_norm=0.5"])
    folder = tmp_path / "run" / "toy"
    folder.mkdir(parents=True)
    (folder.parent / "driver").write_text(str(os.getpid()))
    context = Context(config, folder, folder.parent, Journal(folder.parent / "journal.jsonl"))
    stopped_at = [0]
    for _ in range(2):
        with pytest.raises(Stopped):
            run_training(context, make_stopping, weight_decay=0.1)
        stopped_at.append(commit.newest_step(folder / "checkpoints"))
    assert 3 <= stopped_at[1] < 5 <= stopped_at[2] < Toy.steps
    result = run_training(context, make_stopping, weight_decay=0.1)
    starts = [json.loads(path.read_text())["step"] for path in sorted(folder.glob("attempts/*/start.json"))]
    assert starts == stopped_at
    assert result.metrics["faults"] == []  # a stop is none
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9


def make_task(config: Config, run_dir: Path) -> DyingOnce:
    return DyingOnce(run_dir)


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["training.clip_norm=0.5"])
    # Not there yet, as that of a model trained within another stage; with a name as people give them.
    folder = tmp_path / "中文 run #1 %41?" / "toy"
    folder.parent.mkdir()
    context = Context(config, folder, folder.parent, Journal(folder.parent / "journal.jsonl"))
    result = run_training(context, make_task, weight_decay=0.1)
    assert (folder.parent / "died").exists()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len(result.metrics["evaluations"]) == 1
    (fault,) = result.metrics["faults"]
    assert fault["category"] == "worker_killed" and "first rank 1" in fault["line"]
    (recovered,) = [event for event in read_journal(context.journal.path) if event["kind"] == "recover"]
    assert recovered["why"] == fault["line"] and recovered["lost_steps"] <= 3
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9


def make_while_mended(config: Config, run_dir: Path) -> Toy:
    if (run_dir / "broken").exists():
        raise UserError("the tokens belong to another tokenizer")
    return Toy(None)


@pytest.mark.slow
def test_what_was_mended_is_tried_again_when_the_job_is_started_again(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["training.clip_norm=0.5"])
    folder = tmp_path / "run" / "toy"
    folder.mkdir(parents=True)
    (folder.parent / "broken").touch()
    context = Context(config, folder, folder.parent, Journal(folder.parent / "journal.jsonl"))
    with pytest.raises(UserError, match="belong to another tokenizer"):
        run_training(context, make_while_mended, weight_decay=0.1)
    assert len(list(folder.glob("attempts/attempt-*"))) == 1  # within one start it is not tried again
    (folder.parent / "broken").unlink()
    assert run_training(context, make_while_mended, weight_decay=0.1).metrics["summary"]["step"] == Toy.steps


class KilledOften(Toy):
    """Loses a random worker by kill -9 in each of the given steps, once."""

    steps, checkpoint_every = 60, 5

    def __init__(self, run_dir: Path, kills: dict[int, int]) -> None:
        super().__init__(None)
        self.run_dir, self.kills = run_dir, kills

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[object]:
        marker = self.run_dir / f"killed-{step}"
        if self.kills.get(step) == rank and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().micro_batches(step, rank, ranks)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_workers_killed_at_random_steps_leave_no_mark(local_ray: None, tmp_path: Path) -> None:
    generator = random.Random(5)
    kills = {step: generator.randrange(2) for step in generator.sample(range(1, KilledOften.steps), 10)}
    config = load_config("nano", None, ["training.clip_norm=0.5"])
    weights = {}
    for name, planned in (("killed", kills), ("undisturbed", {})):
        folder = tmp_path / name / "toy"
        folder.mkdir(parents=True)
        context = Context(config, folder, folder.parent, Journal(folder / "journal.jsonl"))
        result = run_training(context, lambda _c, run_dir, planned=planned: KilledOften(run_dir, planned), 0.1)
        weights[name] = load_weights(folder)
        assert [fault["category"] for fault in result.metrics["faults"]] == ["worker_killed"] * len(planned)
        # A rank says where it is once a second, "starting" at first: by then this model is some steps further.
        steps = [fault["step"] for fault in result.metrics["faults"]]
        assert all(0 <= step - known <= 10 or known == 0 for step, known in zip(sorted(planned), steps, strict=True))
        cost = [event for event in read_journal(context.journal.path) if event["kind"] == "recover"]
        # A checkpoint that was being saved when the worker died does not count: the one before it does.
        assert all(event["lost_steps"] < 2 * KilledOften.checkpoint_every for event in cost)
        print([(event["lost_steps"], event["recovery_seconds"]) for event in cost])
    for tensor, other in zip(weights["killed"].values(), weights["undisturbed"].values(), strict=True):
        assert torch.equal(tensor, other)


class LaidOut(Toy):
    """Half of its steps as a pipeline of two with split tensors, the other half with one stage."""

    phases = load_config("nano").pretrain.phases

    def phase_of(self, step: int) -> tuple[int, int]:
        return 0, step

    def lay_out(self, ranks: int, device: Device) -> Stretches:
        first = Layout(pp=2, tp=2, sequence_parallel=True, gradients="replica").on(ranks)
        return Stretches(ranks, (Stretch(3, first, 1), Stretch(6, Layout(tp=2).on(ranks), 1)), "two layouts")


@pytest.mark.slow
def test_workers_that_share_the_model_give_the_weights_of_one(local_ray: None, tmp_path: Path) -> None:
    config = load_config("nano", None, ["training.workers=4", "training.clip_norm=0.5"])
    folder = tmp_path / "run" / "toy"
    folder.mkdir(parents=True)
    context = Context(config, folder, folder.parent, Journal(folder / "journal.jsonl"))
    run_training(context, lambda _config, _run_dir: LaidOut(), weight_decay=0.1)
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = json.loads((tmp_path / "alone" / "rows-0.json").read_text())
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=1e-9)
