"""Random numbers for a parameter, the same for a seed in whatever shares the ranks of a layout hold it."""

import hashlib

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

# Private in torch 2.13; distributed checkpoints find a rank's share of a tensor by it.
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

BAND = 2**20  # numbers that are drawn at once


@torch.no_grad()
def draw_normal(parameter: Tensor, name: str, std: float) -> None:
    """Fill a matrix, or this rank's share of it (DTensor), from the normal distribution.

    Bands of rows, BAND numbers each, have a generator each, seeded by `name`. A rank draws, on the CPU, the bands
    of the rows that it holds: none ever has the whole, and none must be told what another drew.
    """
    local, (rows, columns) = parameter, parameter.shape
    (height, width), (top, left) = parameter.shape, (0, 0)
    if isinstance(parameter, DTensor):
        local = parameter.to_local()
        (height, width), (top, left) = compute_local_shape_and_global_offset(
            parameter.shape, parameter.device_mesh, parameter.placements
        )
    step = max(1, BAND // columns)
    for first in range(top // step * step, top + height, step):
        digest = hashlib.blake2b(f"{name}/{first}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        band = torch.randn(min(step, rows - first), columns, generator=generator).mul_(std)
        begin, end = max(first, top), min(first + len(band), top + height)
        local[begin - top : end - top].copy_(band[begin - first : end - first, left : left + width])
