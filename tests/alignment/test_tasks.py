"""SFT and reward tasks on a tiny run folder: the layout changes neither what a step trains on nor its loss."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.alignment.reward.task import RewardTask
from ilm_ray.alignment.sft import IDLE, SFTTask
from tests.alignment.small_run import MICRO_TOKENS, config_of


def _examples(task: Any, micro: Any) -> list[tuple[int, ...]]:
    if isinstance(task, RewardTask):
        return [(*pair.chosen, -1, *pair.rejected) for pair in micro]
    if micro is IDLE:
        return []
    return [tuple(ids.tolist()) for ids in micro[0].tokens.split(micro[0].cu_seqlens.diff().tolist())]


def _idle(task: Any) -> Any:
    return [] if isinstance(task, RewardTask) else IDLE


@pytest.mark.long
@pytest.mark.parametrize("make", [SFTTask, RewardTask])
def test_ranks_share_a_step_in_equally_many_bounded_micro_batches(run_dir: Path, make: Any) -> None:
    task = make(config_of(run_dir), run_dir)
    model = task.build()
    task.fill(model)
    assert task.steps > 1
    for step in range(task.steps):
        seen = []
        for ranks in (1, 2, 3, 40):
            shares = [task.micro_batches(step, rank, ranks) for rank in range(ranks)]
            assert len({len(micros) for micros in shares}) == 1
            micros = [micro for share in shares for micro in share]
            assert all(task.tokens(micro) <= MICRO_TOKENS or len(_examples(task, micro)) == 1 for micro in micros)
            assert any(not task.tokens(micro) for micro in micros) or ranks < 40  # idle ranks are looked at, too
            losses = [task.losses(model, micro) for micro in micros]
            assert all(part.count == task.count(micro) for part, micro in zip(losses, micros, strict=True))
            assert len({tuple(part.figures) for part in losses}) == 1  # ranks add them up by name
            seen.append(
                (
                    sorted(example for micro in micros for example in _examples(task, micro)),
                    sum(task.tokens(micro) for micro in micros),
                    sum(part.count for part in losses),
                    sum(float(part.loss.detach()) for part in losses),
                )
            )
        assert all(other[:3] == seen[0][:3] for other in seen)
        assert all(other[3] == pytest.approx(seen[0][3], rel=1e-5) for other in seen)
    expected = task.pairs.train if isinstance(task, RewardTask) else task.conversations.train
    assert sorted(int(i) for step in task.plan for i in step) == sorted([*range(len(expected))] * _epochs(task))


@pytest.mark.parametrize("make", [SFTTask, RewardTask])
def test_an_idle_rank_has_no_loss_and_yet_a_gradient_for_every_parameter(run_dir: Path, make: Any) -> None:
    task = make(config_of(run_dir), run_dir)
    model = task.build()
    task.fill(model)
    losses = task.losses(model, _idle(task))
    losses.loss.backward()
    assert losses.loss.item() == 0.0 and losses.count == 0.0 and task.tokens(_idle(task)) == 0
    assert all(p.grad is not None and not torch.any(p.grad) for p in model.parameters())


@pytest.mark.parametrize(("make", "stage"), [(SFTTask, "pretrain"), (RewardTask, "sft")])
def test_a_trained_model_knows_the_longer_of_its_contexts(run_dir: Path, tmp_path: Path, make: Any, stage: str) -> None:
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    config = config_of(run_dir)
    own = {SFTTask: config.sft.context, RewardTask: config.reward.context}[make]
    for before, after in ((own - 1, own), (own + 1, own + 1)):
        path = tmp_path / stage / "model" / "shape.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"context": before}))
        assert make(config, tmp_path).build().shape.context == after


def _epochs(task: Any) -> int:
    return task.config.reward.epochs if isinstance(task, RewardTask) else task.config.sft.epochs
