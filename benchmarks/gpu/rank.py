"""A process group of this process alone, and models as the trainer has them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.gpu.cases import Where
from benchmarks.gpu.kernels import Attend
from ilm_ray.model.internlm2 import Attention


@contextmanager
def one_rank(where: Where) -> Iterator[torch.device]:
    """The device of the group's only rank. The group ends with the context."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine may have no other, and no name
    device = torch.device("cuda", 0) if where.on_gpu else torch.device("cpu")
    if where.on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if where.on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def attend_with(model: nn.Module, attend: Attend) -> None:
    """Give every layer this kernel."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend
