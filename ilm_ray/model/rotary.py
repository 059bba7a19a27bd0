"""Rotary position embedding (RoFormer, arXiv 2104.09864) in Hugging Face's half-split form."""

from typing import Any

import torch
from torch import Tensor

from ilm_ray.model.shape import Shape


def rotary_tables(
    positions: Tensor, shape: Shape, dtype: torch.dtype, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tables of all positions: cosines twice side by side (tokens, head_dim), sines once (tokens, head_dim / 2).

    positions: (tokens); the tables are fp32, or fp64 for that `dtype`. lengths: (tokens) tokens of each one's document,
    needed where one is longer than `shape.window` and RoPE is scaled. Computed for each batch, once for all layers: a
    buffer that is not saved is garbage after building on the meta device.
    """
    half = shape.head_dim // 2
    exact = torch.promote_types(dtype, torch.float32)
    exponents = -torch.arange(half, device=positions.device, dtype=exact) / half
    if lengths is None or shape.rope_scaling is None:
        frequencies = shape.rope_base**exponents
    else:
        frequencies = scaled_base(shape, lengths.to(exact))[:, None] ** exponents
    angles = positions.to(exact)[:, None] * frequencies
    return angles.cos().repeat(1, 2), angles.sin()


def scaled_base(shape: Shape, lengths: Tensor) -> Tensor:
    """The RoPE base for documents of `lengths` tokens, in its type and size, by dynamic NTK scaling.

    As InternLM2's released code and Transformers have it: the slowest frequency slows down as the length grows, the
    fastest stays. Up to `shape.window` tokens it is `shape.rope_base`.
    """
    scaling = shape.rope_scaling
    assert scaling is not None
    growth = scaling.factor * lengths / scaling.original - (scaling.factor - 1)
    return shape.rope_base * growth.clamp(min=1.0) ** (shape.head_dim / (shape.head_dim - 2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x turned by its token's angles; x: (tokens, ..., head_dim), tables as of `rotary_tables`."""
    half = x.shape[-1] // 2
    between = (1,) * (x.dim() - 2)
    cos, sin = cos.view(len(cos), *between, 2 * half), sin.view(len(sin), *between, half)
    a, b = x[..., :half].to(sin.dtype), x[..., half:].to(sin.dtype)
    out = x * cos
    out[..., :half].addcmul_(b, sin, value=-1)
    out[..., half:].addcmul_(a, sin)
    return out.to(x.dtype)


def split_rotated(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries (tokens, heads, head_dim), rotated keys and values (tokens, groups, head_dim).

    qkv: (tokens, groups, queries a group + 2, head_dim), the fused projection; it need not be kept for the backward.
    """
    return _SplitRotated.apply(qkv, cos, sin)


class _SplitRotated(torch.autograd.Function):
    """One node: autograd on slices would make a zeroed tensor of the size of `qkv` for each of the three."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        q, k = rotate(qkv[:, :, :-2], cos, sin), rotate(qkv[:, :, -2], cos, sin)
        return q.flatten(1, 2), k, qkv[:, :, -1].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        q, k, v = gradients
        q = q.unflatten(1, (k.shape[1], -1))
        turned_back = rotate(q, cos, -sin), rotate(k, cos, -sin)[:, :, None], v[:, :, None]
        return torch.cat(turned_back, dim=2), None, None
