"""Data parallelism with FSDP2: parameters, gradients and optimizer states are sharded over the workers."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ilm_ray.model.internlm2 import CausalLM, ScalarModel


def shard(model: CausalLM | ScalarModel, device: torch.device, precision: str) -> nn.Module:
    """Shard each block, then the rest, over all ranks. bf16 keeps fp32 master weights and reduces in fp32."""
    model.to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if precision == "bf16"
        else MixedPrecisionPolicy()
    )
    for block in model.model.layers.values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their global norm is at most `max_norm`; returns the norm before."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def summed(values: list[float], device: torch.device) -> list[float]:
    """Each value added up over all ranks, in fp64."""
    total: Tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()
