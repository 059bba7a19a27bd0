"""Rules of the driver and of a training rank that need no groups: logs, GPU shares, figures that are no numbers."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from torch import nn
from toy import toy_inputs, toy_ppo

from actors.ppo.log import append, export_metrics, keep_before, lines
from actors.ppo.roles import gpu_share, ppo_roles
from actors.ppo.zero import ZeroRank
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.model import attention as attention_module
from ilm_ray.run import metrics
from jobs import ppo as ppo_job


def test_a_log_is_cut_at_an_iteration_whatever_its_texts_hold(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [{"iteration": i, "response": f"one\u2028two\x85three {i}"} for i in range(4)]
    append(path, rows)
    with path.open("a") as out:
        out.write('{"iteration": 4, "resp')
    keep_before(path, 2)
    assert [json.loads(line) for line in lines(path)] == rows[:2]
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]


def test_an_iteration_says_how_far_ppo_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[tuple[str, ...], float]()

    def gauge(row: metrics.Metric) -> SimpleNamespace:
        return SimpleNamespace(set=lambda value, tags=None: seen.update({(row.name, *(tags or {}).values()): value}))

    monkeypatch.setattr(metrics, "gauge", gauge)
    row = {name: 0.5 for _, name in metrics.OF_PPO_ROWS} | {name: {} for _, name in metrics.OF_PPO_DOMAINS}
    export_metrics(row | {"iteration": 6, "tokens": 100, "seconds": {"rollout": 1.0, "all": 4.0}}, 9, "ppo")
    assert (seen["ilm_train_step", "ppo"], seen["ilm_train_steps", "ppo"]) == (7, 9)
    assert seen["ilm_ppo_seconds", "wait"] == 3.0


def test_a_log_row_is_valid_json_or_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append(tmp_path / "metrics.jsonl", [{"kl": float("nan")}])


@pytest.mark.parametrize(
    ("gpus", "ranks", "share"), [(0, 5, 0.0), (2, 3, 0.5), (3, 4, 0.5), (1, 5, 0.2), (1, 3, 0.33), (8, 5, 1.0)]
)
def test_shares_fit_on_single_gpus(monkeypatch: pytest.MonkeyPatch, gpus: int, ranks: int, share: float) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
    assert gpu_share(ranks) == share
    assert not gpus or int(1 / share) * gpus >= ranks


def test_ranks_of_one_group_do_not_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    inputs = toy_inputs(tmp_path)
    with pytest.raises(UserError, match="NCCL lets no two ranks of one group share a GPU"):
        ppo_roles(toy_ppo(policy_ranks=2), inputs, tmp_path)
    assert {role.gpus for role in ppo_roles(toy_ppo(policy_ranks=1), inputs, tmp_path)} == {0.0, 0.2}


def test_colocated_ranks_of_one_number_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    inputs = toy_inputs(tmp_path)
    roles = ppo_roles(toy_ppo(policy_ranks=2, colocate=True), inputs, tmp_path)
    for rank in range(2):
        assert sum(role.gpus for role in roles if rank < role.ranks) <= 1.0
    with pytest.raises(UserError, match="largest group has 3 ranks, the cluster 2 GPU"):
        ppo_roles(toy_ppo(critic_ranks=3, colocate=True), inputs, tmp_path)


class StubEngine:
    """As much of DeepSpeed's engine as a step needs; it says `norm` and applies nothing."""

    def __init__(self, norm: float | None) -> None:
        self.norm, self.module, self.stepped = norm, nn.Linear(1, 1), False

    def set_gradient_accumulation_boundary(self, last: bool) -> None: ...

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.stepped = True

    def get_global_grad_norm(self) -> float | None:
        return self.norm


def _rank(norm: float | None, stage: int) -> Any:
    rank = ZeroRank(0, 1, SimpleNamespace(ppo=toy_ppo(), micro_tokens=8))
    rank.role, rank.engine, rank.zero_stage = "critic", StubEngine(norm), stage
    return rank


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0])
def test_a_step_that_deepspeed_leaves_out_is_an_error(norm: float) -> None:
    rank = _rank(norm, 2)
    with pytest.raises(FloatingPointError, match="gradient norm of critic in iteration 7 is"):
        rank.update([lambda: rank.engine.module(torch.ones(1)).sum()], 7)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_loss_that_is_no_number_is_an_error_before_the_step(stage: int) -> None:
    rank = _rank(1.0, stage)
    with pytest.raises(FloatingPointError, match="loss of critic in iteration 3 is nan"):
        rank.update([lambda: rank.engine.module(torch.full((1,), torch.nan)).sum()], 3)
    assert not rank.engine.stepped


def test_without_zero_a_bad_gradient_is_found_and_a_missing_norm_is_none() -> None:
    rank = _rank(None, 0)
    assert rank.update([lambda: rank.engine.module(torch.ones(1)).sum()], 0) is None
    with pytest.raises(FloatingPointError, match="gradient norm of critic in iteration 1 is"):
        rank.update([lambda: (rank.engine.module.bias * 0).sum().sqrt()], 1)  # value 0, slope infinite times 0


def test_kernels_of_half_precision_get_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "attention_by_run", lambda *_: "each document")
    outputs = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        q: Any = SimpleNamespace(is_cuda=True, dtype=dtype)
        outputs[dtype] = attention_module.attention(q, q, q, q, 1, kernel=lambda *_: "kernel")
    assert [str(v) for v in outputs.values()] == ["each document", "each document", "kernel", "kernel"]


def test_raising_a_bound_keeps_the_checkpoints() -> None:
    config, raised_config = (load_config("nano", None, [f"ppo.logprob_gap_bound={bound}"]) for bound in (0.1, 0.5))
    assert ppo_job.settings(config) == ppo_job.settings(raised_config)
