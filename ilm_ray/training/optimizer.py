"""The optimizer of a model or of a share of it: AdamW, or Muon for the matrices of blocks beside it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, _zeropower_via_newtonschulz

Kind = Literal["adamw", "muon"]
MOMENTUM = 0.95  # torch.optim.Muon's, and that of arXiv 2502.16982


def make_optimizer(
    kind: Kind,
    named: Iterable[tuple[str, nn.Parameter]],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> optim.AdamW:
    """An optimizer for named parameters, its rate still 0. Muon takes the rate of AdamW: see `MuonAdamW`."""
    if kind == "adamw":
        return adamw(named, betas, eps, weight_decay)
    matrices, others = list[nn.Parameter](), list[tuple[str, nn.Parameter]]()
    for name, parameter in named:
        if parameter.dim() == 2 and ".layers." in f".{name}":
            matrices.append(parameter)
        else:
            others.append((name, parameter))
    beside = adamw(others, betas, eps, weight_decay) if others else None
    groups = [{"params": matrices, "weight_decay": weight_decay, "muon": True, "fused": False}]
    groups += [g | {"muon": False} for g in beside.param_groups] if beside else []
    return MuonAdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps)


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], betas: tuple[float, float], eps: float, weight_decay: float
) -> optim.AdamW:
    """AdamW without decay on norms and embeddings (not stated in the report; the usual choice).

    One fused pass over all parameters, except where norms lie on another mesh than matrices, which torch refuses.
    """
    decayed, free = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in named:
        (free if parameter.dim() < 2 or "tok_embeddings" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    meshes = {getattr(parameter, "device_mesh", None) for parameter in free + decayed}
    return optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True if len(meshes) == 1 else None)


class MuonAdamW(optim.AdamW):
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) for groups with `muon`, AdamW for the others.

    Muon makes a matrix's momentum orthogonal, for which it needs the matrix whole. Where matrices are split by rows,
    each rank gets some of them whole, in one exchange for as many matrices as there are ranks, and gives back the
    results: the work is divided as the states are. Updates are scaled by 0.2 sqrt(the longer side), so that rate and
    decay tuned for AdamW hold (arXiv 2502.16982 section 2.2). Its arithmetic is torch.optim.Muon's. Every rank calls
    `step`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._muon(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        updates = list[Tensor]()
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["step"] = torch.tensor(0.0)  # AdamW's loading of a state asks each for it
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
            state["step"] += 1
            momentum = state["momentum_buffer"]
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            updates.append(parameter.grad.lerp(momentum, MOMENTUM))  # Nesterov
        for parameter, update in zip(parameters, orthogonal(updates), strict=True):
            rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-rate)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The nearest orthogonal matrix of each, roughly, in bfloat16 (torch.optim.Muon's Newton-Schulz iteration).

    A DTensor comes back split as it was. Every rank gives the same matrices in the same order.
    """
    out: list[Tensor | None] = [None] * len(matrices)
    alike: dict[Any, list[int]] = {}
    for number, matrix in enumerate(matrices):
        rows = _rows_group(matrix)
        if rows is None:
            out[number] = _alone(matrix)
        else:
            alike.setdefault((matrix.shape, rows), []).append(number)
    for (_, group), numbers in alike.items():
        ranks = dist.get_world_size(group)
        for start in range(0, len(numbers), ranks):
            some = numbers[start : start + ranks]
            for number, matrix in zip(some, _exchanged([matrices[n] for n in some], group), strict=True):
                out[number] = matrix
    return [matrix for matrix in out if matrix is not None]


def _newton_schulz(matrix: Tensor) -> Tensor:
    return _zeropower_via_newtonschulz(matrix, (DEFAULT_A, DEFAULT_B, DEFAULT_C), DEFAULT_NS_STEPS, EPS)


def _rows_group(matrix: Tensor) -> dist.ProcessGroup | None:
    """The ranks that a matrix is split over by rows, None where it is whole or split in another way too."""
    if not isinstance(matrix, DTensor):
        return None
    split = [i for i, placement in enumerate(matrix.placements) if not placement.is_replicate()]
    if len(split) != 1 or type(matrix.placements[split[0]]) is not Shard or matrix.placements[split[0]] != Shard(0):
        return None
    group = matrix.device_mesh.get_group(split[0])
    return group if dist.get_world_size(group) > 1 else None


def _alone(matrix: Tensor) -> Tensor:
    """A whole matrix, or one split by rows and by tensor-parallel ranks, which every rank then makes whole."""
    if not isinstance(matrix, DTensor):
        return _newton_schulz(matrix)
    whole = _newton_schulz(matrix.full_tensor())
    everywhere = [Replicate()] * matrix.device_mesh.ndim
    again = DTensor.from_local(whole, matrix.device_mesh, everywhere, run_check=False)
    return again.redistribute(placements=matrix.placements)


def _exchanged(matrices: Sequence[Any], group: dist.ProcessGroup) -> list[Tensor]:
    """At most as many matrices of one shape as ranks: the r-th rank gets the r-th whole, all get their rows back."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    shape, local = matrices[0].shape, matrices[0].to_local()
    heights = [len(part) for part in torch.empty(shape[0], 0).chunk(ranks)]
    heights += [0] * (ranks - len(heights))  # more ranks than parts
    mine, here = heights[rank] * shape[1], rank < len(matrices)
    sent = [mine if number < len(matrices) else 0 for number in range(ranks)]
    got = [height * shape[1] if here else 0 for height in heights]
    rows = torch.cat([matrix.to_local().flatten() for matrix in matrices]).bfloat16()
    whole = rows.new_empty(sum(got))
    dist.all_to_all_single(whole, rows, got, sent, group=group)
    if here:
        whole = _newton_schulz(whole.view(shape)).flatten()
    back = torch.empty_like(rows)
    dist.all_to_all_single(back, whole.contiguous(), sent, got, group=group)
    return [
        DTensor.from_local(part.view(local.shape), m.device_mesh, m.placements, shape=m.shape, stride=m.stride())
        for part, m in zip(back.split(mine) if mine else [back] * len(matrices), matrices, strict=True)
    ]
