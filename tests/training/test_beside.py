"""Checkpoints measured by Ray tasks while training goes on: the figures that training itself comes to."""

from pathlib import Path

import pytest

from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import Context
from ilm_ray.training.beside import checkpoint_figures, hold
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.pretrain import PretrainTask
from tests.training.test_layouts import _config, run_dir

__all__ = ["run_dir"]  # a fixture of that test


def test_checkpoints_are_measured_beside_training(local_ray: None, run_dir: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "tokens"):
        (tmp_path / name).symlink_to(run_dir / name)
    config = _config()
    pretrain = config.pretrain.model_copy(update={"evaluate_every": 1, "checkpoint_every": 2})
    training = config.training.model_copy(update={"keep_checkpoints": 9, "workers": 2, "log_every": 1})
    config = config.model_copy(update={"pretrain": pretrain, "training": training})
    folder = tmp_path / "pretrain"
    folder.mkdir()
    context = Context(config, folder, tmp_path, Journal(tmp_path / "journal.jsonl"))
    from ilm_ray.training.ray_train import run_training

    result = run_training(context, PretrainTask, 0.1, measure_beside=True)
    beside = {row["step"]: row for row in read_journal(folder / "beside.jsonl")}
    assert beside.keys() == {2, 4}
    for step, phase in ((2, "short"), (4, "long")):
        (expected,) = [
            row["bits_per_byte"]
            for row in result.metrics["evaluations"]
            if (row["step"], row["phase"], row["when"]) == (step, phase, "end")
        ]
        assert beside[step]["phase"] == phase
        assert beside[step]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert not (folder / "measured").exists()
    assert result.metrics["faults"] == [] and result.metrics["incidents"] == []


def test_a_checkpoint_that_is_held_outlives_its_deletion(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / commit.name_of(7)
    checkpoint.mkdir(parents=True)
    (checkpoint / "part").write_bytes(b"x" * 100)
    held = hold(checkpoint, tmp_path / "measured")
    (checkpoint / "part").unlink()
    assert (held / "part").read_bytes() == b"x" * 100
    with pytest.raises(FileNotFoundError):
        checkpoint_figures(_config(), tmp_path, held)
