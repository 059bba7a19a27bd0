"""Sharding of parameters, gradients and optimizer states by FSDP2, and the sums between ranks."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, ScalarModel


def shard_states(model: CausalLM | ScalarModel, mesh: DeviceMesh, layout: Layout, precision: str) -> None:
    """Shard the embedding, each block, the head with its norm, in place. bf16 keeps fp32 masters and reduces in fp32.

    Each of them is gathered and reduced by itself, so that the head's gradients travel while blocks go backward. A lone
    rank in fp32 is left as it is: FSDP2 would copy all weights and gradients for nothing.
    """
    if mesh.size() == 1 and layout.tp == 1 and precision == "fp32":
        if not next(model.parameters()).is_meta:
            model.to(mesh.device_type)
        return
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if precision == "bf16"
        else MixedPrecisionPolicy()
    )
    shard = functools.partial(fully_shard, mesh=mesh, mp_policy=policy)
    reshard = _kept_after_forward(layout)
    units: list[Any] = []  # in the order in which the forward comes to them
    embedding, norm = model.model.tok_embeddings, model.model.norm
    tied = [embedding] if isinstance(model, CausalLM) and model.shape.tied and embedding.weight is not None else []
    if isinstance(embedding, nn.Embedding) and not (tied and isinstance(norm, nn.RMSNorm)):
        # Absent from the later stages of a pipeline; where the head is tied and here, one unit with it.
        shard(embedding, reshard_after_forward=reshard)
        units.append(embedding)
        units[0].set_unshard_in_backward(False)  # its gradient needs no weights
    for block in model.model.layers.values():
        shard(block, reshard_after_forward=reshard)
        units.append(block)
    if isinstance(norm, nn.RMSNorm):
        head = model.output if isinstance(model, CausalLM) else model.v_head
        # The backward begins with the head: splitting it after the forward would only gather it again at once.
        shard([*tied, norm, head], reshard_after_forward=False)
        units.append(head)
    shard(model)  # no parameter is left; calls begin and end here
    _prefetch(units, layout.prefetch)


def _prefetch(units: Sequence[Any], ahead: int) -> None:
    """Gather the parameters of the units that come next, in forward and in backward, while one computes."""
    for number, unit in enumerate(units):
        unit.set_modules_to_forward_prefetch(units[number + 1 : number + 1 + ahead])
        unit.set_modules_to_backward_prefetch(units[max(0, number - ahead) : number][::-1])


def _kept_after_forward(layout: Layout) -> bool | int:
    """FSDP2's reshard_after_forward: whole (False), as its optimizer state (True), over a smaller group (its size)."""
    if layout.parameters == "replica":
        return False
    return layout.shard_group if layout.parameters != layout.optimizer else True


def keep_states(model: nn.Module, layout: Layout, last: bool) -> None:
    """Announce the next backward; `last`: it is that of a step's last micro-batch."""
    if not isinstance(model, FSDPModule):  # nothing is split
        return
    model.set_reshard_after_backward(last or layout.parameters != "replica")
    model.set_requires_gradient_sync(last or layout.gradients != "replica")
    model.set_requires_all_reduce(last)  # copies of a group add up their gradients once a step


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, stages: int = 1, twice: nn.Parameter | None = None
) -> float:
    """Scale all gradients so that their global norm is at most `max_norm`; returns the norm before.

    Every rank calls it, each with its share of the parameters; `stages`: pipeline ranks, which hold different ones.
    twice: the parameter that two of them hold, with the same gradient.
    torch's own refuses gradients that lie on different meshes (pytorch#180346).
    """
    holders = dist.get_world_size() // stages  # ranks that hold a stage's parameters, in shares or copies
    by_copies: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            local, shares = local_share(parameter.grad)
            by_copies.setdefault((1 + (parameter is twice)) * holders // shares, []).append(local)
    # Each rank with a copy of a share counts a part of it, so one sum over all ranks gives the whole.
    norms = [(nn.utils.get_total_norm(gradients), copies) for copies, gradients in by_copies.items()]
    square = torch.stack([norm.double() ** 2 / copies for norm, copies in norms]).sum()
    dist.all_reduce(square)
    norm = float(square.sqrt())
    if norm > max_norm:
        for gradients in by_copies.values():
            torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_ has it
    return norm


def local_share(tensor: Tensor) -> tuple[Tensor, int]:
    """A parameter's or gradient's share on this rank, and in how many shares it is split."""
    if not isinstance(tensor, DTensor):
        return tensor, 1
    shares = 1
    for placement, ranks in zip(tensor.placements, tensor.device_mesh.shape, strict=True):
        assert not placement.is_partial(), "a gradient is reduced before anybody looks at it"
        shares *= 1 if placement.is_replicate() else ranks
    return tensor.to_local(), shares


def summed(values: Sequence[float], device: torch.device, group: ProcessGroup | None = None) -> list[float]:
    """Each value added up over the ranks of `group` (all by default), in fp64."""
    total: Tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    return total.tolist()
