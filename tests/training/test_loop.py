"""The training loop: every number of ranks gives the same weights, and so does a run that was killed and resumed."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, Shape, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import load_causal
from ilm_ray.run.stopping import ASKED, Stopped
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import LoopSettings, train
from ilm_ray.training.schedule import cosine_lr
from ilm_ray.training.task import Losses, Task
from tests.processes import run_ranks

pytestmark = pytest.mark.ranks

SETTINGS = LoopSettings("fp32", (0.9, 0.95), 1e-8, 0.1, clip_norm=0.5, storage=Storage(keep_local=2))
SHAPE = Shape(vocab_size=64, layers=2, hidden=32, kv_heads=2, queries_per_kv=2, head_dim=8, mlp_hidden=48)


class Toy(Task):
    """Eight documents a step, dealt out to the ranks, in two micro-batches each; in fp64, to compare closely."""

    steps, checkpoint_every, log_every = 6, 2, 1

    def __init__(self, die_at: int | None = None) -> None:
        self.die_at = die_at

    def build(self) -> CausalLM:
        return CausalLM(SHAPE, loss_chunk=7).double()

    def fill(self, part: CausalLM | ScalarModel) -> None:
        initialize(part, 3)

    def learning_rate(self, step: int) -> float:
        return cosine_lr(step, self.steps, 1e-2, 0.2, 0.1)

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        if step == self.die_at:
            os._exit(9)
        generator = torch.Generator().manual_seed(step)
        documents = [
            torch.randint(0, 64, (int(n),), generator=generator).tolist()
            for n in torch.randint(2, 12, (8,), generator=generator)
        ]
        mine = documents[rank::ranks]
        half = len(mine) // 2
        out = []
        for part in (mine[:half], mine[half:]):
            batch = Packed.of(part)
            labels = torch.full_like(batch.tokens, IGNORE)
            inside = batch.positions[1:] > 0
            labels[:-1][inside] = batch.tokens[1:][inside]
            out.append((batch, labels))
        return out

    def count(self, micro: Any) -> float:
        return float((micro[1] != IGNORE).sum())

    def tokens(self, micro: Any) -> int:
        return len(micro[1])

    def context(self, step: int) -> int:
        return 8

    def losses(self, model: Any, micro: Any) -> Losses:
        return Losses(model(*micro).sum(), self.count(micro))


def run(folder: str, die_at: int | None = None, layout: Layout | None = None, optimizer: Any = "adamw") -> None:
    path, settings = Path(folder), replace(SETTINGS, layout=layout or Layout(), optimizer=optimizer)
    path.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    train(Toy(die_at), settings, path, rows.append, Watch(path / "watch", int(os.environ["RANK"]), 60.0))
    logged = [row for row in rows if "begins" not in row]
    (path / f"rows-{os.environ['RANK']}.json").write_text(json.dumps(logged))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_ranks(run, 1, str(folder))
    return folder


def saved_when_killed(folder: Path) -> int:
    """The newest step on the disk of a run killed at step 5: 2 was waited for when 4 began to be saved."""
    newest = commit.newest_step(folder / "checkpoints")
    assert newest in (2, 4)
    return newest


def differences(a: Path, b: Path) -> float:
    return max(
        float((x - y).abs().max())
        for x, y in zip(
            load_weights(a).values(),
            load_weights(b).values(),
            strict=True,
        )
    )


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(sorted(load_file(folder / "model" / "model.safetensors").items()))


def test_training_changes_the_weights_and_lowers_a_repeated_loss(alone: Path) -> None:
    trained, fresh = load_causal(alone / "model"), Toy().build()
    Toy().fill(fresh)
    moved = [(a - b).abs().max().item() for a, b in zip(trained.parameters(), fresh.parameters(), strict=True)]
    assert min(moved) > 1e-4
    micro = Toy().micro_batches(Toy.steps - 1, 0, 1)[0]
    assert trained.double()(*micro).sum() < fresh(*micro).sum()


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_weights_and_losses(alone: Path, tmp_path: Path, ranks: int) -> None:
    run_ranks(run, ranks, str(tmp_path))
    assert differences(alone, tmp_path) < 1e-9
    ours, theirs = (json.loads((p / "rows-0.json").read_text()) for p in (alone, tmp_path))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-9)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-9)
        assert a["tokens"] == b["tokens"]


LAYOUTS = {
    "pp2": Layout(pp=2, gradients="replica"),
    "tp2 sp": Layout(tp=2, sequence_parallel=True),
    "cp2": Layout(cp=2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_killed_in_one_layout_and_resumed_in_another_equals_uninterrupted(
    alone: Path, tmp_path: Path, name: str
) -> None:
    after = list(LAYOUTS)[list(LAYOUTS).index(name) - 1]
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(run, 2, str(tmp_path), 5, LAYOUTS[name])
    begun = saved_when_killed(tmp_path)
    run_ranks(run, 2, str(tmp_path), None, LAYOUTS[after])
    assert differences(alone, tmp_path) < 1e-9
    expected, rows = (json.loads((p / "rows-0.json").read_text()) for p in (alone, tmp_path))
    assert [row["step"] for row in rows] == list(range(begun + 1, 7))
    for a, b in zip(expected[begun:], rows, strict=True):
        assert {k: a[k] for k in ("loss", "grad_norm", "tokens")} == pytest.approx(
            {k: b[k] for k in ("loss", "grad_norm", "tokens")}, abs=1e-9
        )


def test_a_run_with_muon_resumes_in_another_layout(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ranks(run, 1, str(whole), None, None, "muon")
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(run, 2, str(killed), 5, None, "muon")
    saved_when_killed(killed)
    run_ranks(run, 2, str(killed), None, Layout(tp=2), "muon")
    # Momentum is rounded to bfloat16 before it is made orthogonal: a last bit of fp64 may change a whole step of that.
    assert differences(whole, killed) < 1e-3


class StopRequested(Toy):
    """Somebody asks for the end while rank 0 reads the batch of step 2."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        if step == 2 and rank == 0:
            (self.folder / ASKED).touch()
        return super().micro_batches(step, rank, ranks)


def run_until_asked(folder: str, layout: Layout | None = None) -> None:
    path, settings = Path(folder), replace(SETTINGS, layout=layout or Layout())
    rank = int(os.environ["RANK"])
    with pytest.raises(Stopped, match="step 3"):
        train(StopRequested(path), settings, path, lambda row: None, Watch(path / "watch", rank, 60.0))


@pytest.mark.parametrize("name", ["dp2", *LAYOUTS])
def test_all_ranks_stop_together_with_a_checkpoint_of_the_step_they_are_at(
    alone: Path, tmp_path: Path, name: str
) -> None:
    run_ranks(run_until_asked, 2, str(tmp_path), LAYOUTS.get(name))
    assert commit.newest_step(tmp_path / "checkpoints") == 3  # 2 would be the newest otherwise
    (tmp_path / ASKED).unlink()
    run_ranks(run, 2, str(tmp_path))
    assert differences(alone, tmp_path) < 1e-9


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 4)])
def test_killed_and_resumed_on_other_ranks_equals_uninterrupted(
    alone: Path, tmp_path: Path, before: int, after: int
) -> None:
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(run, before, str(tmp_path), 5)
    begun = saved_when_killed(tmp_path)
    # A checkpoint without its marker, as a crash while saving leaves it, is not used.
    (tmp_path / "checkpoints" / "step-00000005").mkdir()
    run_ranks(run, after, str(tmp_path))
    assert differences(alone, tmp_path) < 1e-9
    rows = json.loads((tmp_path / "rows-0.json").read_text())
    assert [row["step"] for row in rows] == list(range(begun + 1, 7))
