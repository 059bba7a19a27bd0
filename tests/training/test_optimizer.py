"""Muon beside AdamW: each is torch's own, whatever the layout its matrices are split in."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, Replicate

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.model.shape import Shape
from ilm_ray.training.optimizer import MuonAdamW, make_optimizer
from ilm_ray.training.parallel.parallelize import parallelize
from tests.processes import run_ranks

# 50 and 60 rows over 4 ranks: one has fewer; 3 layers: some exchanges have fewer matrices than ranks.
SHAPE = Shape(vocab_size=30, layers=3, hidden=36, kv_heads=2, queries_per_kv=3, head_dim=6, mlp_hidden=50, init_std=0.1)
RATES = (0.02, 0.01, 0.03)
LAYOUTS = {
    "full": Layout(),
    "groups": Layout(parameters="partial", gradients="partial", optimizer="partial", shard_group=2),
    "whole": Layout(parameters="replica", gradients="replica", optimizer="replica"),
    "tensors": Layout(tp=2),
    "pipeline": Layout(pp=2, gradients="replica"),
}


def _model() -> CausalLM:
    model = CausalLM(SHAPE)
    initialize(model, 1)
    return model


def _named_gradients(step: int) -> dict[str, Tensor]:
    """The same on every rank; a name's place in the model says its seed."""
    out = {}
    for number, (name, parameter) in enumerate(_model().named_parameters()):
        out[name] = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * step + number))
    return out


def _torch_alone() -> dict[str, Tensor]:
    """The oracle: torch.optim.Muon on whole matrices of blocks, torch.optim.AdamW on the rest."""
    model = _model()
    named = dict(model.named_parameters())
    matrices = {n: p for n, p in named.items() if "layers." in n and p.dim() == 2}
    norms = [p for n, p in named.items() if p.dim() == 1 or "tok_embeddings" in n]
    muon = optim.Muon(list(matrices.values()), lr=0.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": [named["output.weight"]], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    adam = optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step, rate in enumerate(RATES):
        for name, gradient in _named_gradients(step).items():
            named[name].grad = gradient
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    return {name: parameter.detach() for name, parameter in named.items()}


def _share_of(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """A rank's share of a gradient, split as its parameter."""
    if not isinstance(parameter, DTensor):
        return gradient
    shadow = parameter.detach().clone()
    whole = DTensor.from_local(gradient, parameter.device_mesh, [Replicate()] * parameter.device_mesh.ndim)
    shadow.copy_(whole.redistribute(placements=parameter.placements))
    return shadow


def _train(layouts: dict[str, Layout], folder: str) -> None:
    for kind, layout in layouts.items():
        model = parallelize(_model(), layout, torch.device("cpu"), "fp32")
        for number, part in enumerate(model.parts):
            optimizer: Any = make_optimizer("muon", part.named_parameters(), (0.9, 0.95), 1e-8, 0.1)
            for step, rate in enumerate(RATES):
                gradients = _named_gradients(step)
                for name, parameter in part.named_parameters():
                    parameter.grad = _share_of(gradients[name], parameter)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            weights = {
                name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
                for name, p in part.named_parameters()
            }
            torch.save(weights, Path(folder) / f"{kind}-{number}-{dist.get_rank()}.pt")


@pytest.mark.ranks
def test_muon_on_split_matrices_is_torch_s_on_whole_ones(tmp_path: Path) -> None:
    run_ranks(_train, 4, LAYOUTS, str(tmp_path))
    expected = _torch_alone()
    for kind in LAYOUTS:
        seen = set()
        for path in tmp_path.glob(f"{kind}-*.pt"):
            for name, weight in torch.load(path, weights_only=True).items():
                seen.add(name)
                torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-6)
        assert seen == expected.keys(), kind


def test_muon_takes_the_matrices_of_blocks_and_nothing_else() -> None:
    model = _model()
    optimizer = make_optimizer("muon", model.named_parameters(), (0.9, 0.95), 1e-8, 0.1)
    assert isinstance(optimizer, MuonAdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    everything = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    matrices = ("wqkv", "wo", "w1", "w2", "w3")
    assert taken == {n for n in names.values() if n.split(".")[-2] in matrices}
    assert sorted(everything) == sorted(names.values())
    assert type(make_optimizer("adamw", model.named_parameters(), (0.9, 0.95), 1e-8, 0.1)) is optim.AdamW


def test_alone_it_is_torch_s_bit_for_bit() -> None:
    model, expected = _model(), _torch_alone()
    optimizer = make_optimizer("muon", model.named_parameters(), (0.9, 0.95), 1e-8, 0.1)
    for step, rate in enumerate(RATES):
        gradients = _named_gradients(step)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.equal(expected[name]), name
