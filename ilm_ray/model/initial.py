"""First values of a parameter, the same for any shares that the ranks of a layout hold."""

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# Private in torch 2.13; distributed checkpoints find a rank's share of a tensor by it.
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

BAND = 2**20  # numbers that are drawn at once


def share_of(parameter: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """This rank's part of a parameter, which is all of it but for a DTensor, and where it lies in the whole."""
    if not isinstance(parameter, DTensor):
        return parameter, tuple(slice(0, size) for size in parameter.shape)
    sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))


@torch.no_grad()
def draw_normal(parameter: Tensor, name: str, std: float) -> None:
    """Fill a matrix, or this rank's share of it (DTensor), from the normal distribution.

    Bands of rows, BAND numbers each, have a generator each, seeded by `name`. A rank draws, on the CPU, the bands of
    the rows that it holds: none ever has the whole, and none needs the draws of another.
    """
    rows, columns = parameter.shape
    local, (across, along) = share_of(parameter)
    step = max(1, BAND // columns)
    for first in range(across.start // step * step, across.stop, step):
        digest = hashlib.blake2b(f"{name}/{first}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        band = torch.randn(min(step, rows - first), columns, generator=generator).mul_(std)
        begin, end = max(first, across.start), min(first + len(band), across.stop)
        local[begin - across.start : end - across.start].copy_(band[begin - first : end - first, along])


@torch.no_grad()
def copy_shares(part: nn.Module, whole: nn.Module) -> None:
    """Give a rank's share of a laid-out model the values of a whole one."""
    values = dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        local, where = share_of(parameter)
        local.copy_(values[name][where])
