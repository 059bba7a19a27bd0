"""States lie where the layout says, and clipping is torch's whatever meshes the gradients lie on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.training.parallel.sharding import clip_gradients, keep_states
from tests.processes import run_ranks
from tests.training.parallel.test_layouts import SHARDINGS
from tests.training.parallel.training import build, make_optimizer, window

RANKS, GROUP = 4, 2
IN_SHARES = {"replica": 1, "partial": GROUP, "full": RANKS}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _loss(model: ParallelModel) -> Tensor:
    return model(*window(0, [dist.get_rank()])).sum()


def _shares(folder: str) -> None:
    """In how many shares the first block's wqkv, its gradient and its moments are, as this rank holds them."""
    shares = []
    for parameters, gradients, optimizer in SHARDINGS:
        layout = Layout(parameters=parameters, gradients=gradients, optimizer=optimizer, shard_group=GROUP)
        model = parallelize(build(torch.float32), layout, torch.device("cpu"), "fp32")
        weight = model.parts[0].model.layers["0"].attention.wqkv
        stored = dict(model.parts[0].named_parameters())["model.layers.0.attention.wqkv.weight"]
        whole = stored.numel()
        loss = _loss(model)
        kept = whole // _local(weight.weight).numel()  # after the forward, before the backward
        keep_states(model.parts[0], model.layout, last=False)
        loss.backward()
        # A whole gradient, or one that copies of a group have still to add up, is not yet the parameter's.
        reduced = 0 if stored.grad is None else whole // _local(stored.grad).numel()
        keep_states(model.parts[0], model.layout, last=True)
        _loss(model).backward()
        made = make_optimizer(model.parameters(), torch.float64)
        made.step()
        shares.append((kept, reduced, whole // _local(made.state[stored]["exp_avg"]).numel()))
    if dist.get_rank() == 0:
        torch.save(shares, Path(folder) / "shares.pt")


@pytest.mark.ranks
def test_states_are_split_as_the_layout_says(tmp_path: Path) -> None:
    run_ranks(_shares, RANKS, str(tmp_path))
    shares = torch.load(tmp_path / "shares.pt", weights_only=True)
    for (parameters, gradients, optimizer), (kept, reduced, moments) in zip(SHARDINGS, shares, strict=True):
        assert kept == IN_SHARES[parameters]
        assert reduced == (IN_SHARES["full"] if gradients == "full" else 0)
        assert moments == IN_SHARES[optimizer]


def _clip(layout: Layout, bound: float, folder: str) -> None:
    model = parallelize(build(torch.float64), layout, torch.device("cpu"), "fp32")
    model.backward_windows([window(0, [0]), window(0, [1])], 1.0)
    norm = clip_gradients(model.parameters(), bound, layout.pp)
    gradients = {n: p.grad.full_tensor() for part in model.parts for n, p in part.named_parameters()}
    torch.save((norm, gradients), Path(folder) / f"{dist.get_rank()}.pt")


@pytest.mark.ranks
@pytest.mark.parametrize("bound", [1.0, 1e6])
def test_clipping_over_meshes_and_stages_is_that_of_torch(bound: float, tmp_path: Path) -> None:
    # Norms on one mesh, split matrices on another, layers on two ranks.
    run_ranks(_clip, 4, Layout(pp=2, tp=2, gradients="replica"), bound, str(tmp_path))
    alone: Any = build(torch.float64)
    (alone(*window(0, [0])).sum() + alone(*window(0, [1])).sum()).backward()
    expected = torch.nn.utils.clip_grad_norm_(alone.parameters(), bound)
    for rank in range(4):
        norm, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert norm == pytest.approx(float(expected), rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, alone.get_parameter(name).grad, atol=1e-12, rtol=1e-12)
