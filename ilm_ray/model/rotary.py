"""Rotary position embedding (RoFormer, arXiv 2104.09864) in Hugging Face's half-split form."""

import math
from typing import Any

import torch
from torch import Tensor

from ilm_ray.model.shape import RopeScaling, Shape


def rotary_tables(
    positions: Tensor, shape: Shape, dtype: torch.dtype, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tables of all positions: cosines twice side by side (tokens, head_dim), sines once (tokens, head_dim / 2).

    positions: (tokens); the tables are fp32, or fp64 for that `dtype`. lengths: (tokens) tokens of each one's document,
    needed where `shape.stretches`. Computed for each batch, once for all layers: a buffer that is not saved is garbage
    after building on the meta device.
    """
    exact = torch.promote_types(dtype, torch.float32)
    turns = frequencies(shape, exact, positions.device, None if lengths is None else lengths.to(exact))
    angles = positions.to(exact)[:, None] * turns
    cos, sin = angles.cos(), angles.sin()
    magnitude = shape.rope_scaling.magnitude if shape.rope_scaling is not None else 1.0
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    return cos.repeat(1, 2), sin


def frequencies(shape: Shape, dtype: torch.dtype, device: torch.device, lengths: Tensor | None = None) -> Tensor:
    """Radians that each pair of a head's numbers turns from position to position: (head_dim / 2), or a row a length.

    In the form and order of Transformers, bit for bit: at position 100,000 a rounding shows. linear
    (https://kaiokendev.github.io/til) slows all frequencies down. dynamic: see `scaled_base`. YaRN (arXiv 2309.00071,
    section 3.2) slows down those that turn seldom in the original window, by a ramp over their numbers; LLaMA 3.1 too,
    by a ramp over their turns.
    """
    scaling, width = shape.rope_scaling, shape.head_dim
    exponents = torch.arange(0, width, 2, device=device).to(dtype) / width
    base: float | Tensor = shape.rope_base
    if scaling is not None and scaling.kind == "dynamic" and lengths is not None:
        base = scaled_base(shape, lengths)[:, None]
    periods = base**exponents
    plain = 1.0 / periods
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "yarn":
        kept = 1 - _yarn_ramp(shape, scaling, dtype, device)
        return 1.0 / (scaling.factor * periods) * (1 - kept) + plain * kept
    turns = scaling.original / (2 * math.pi / plain)  # in the original window
    kept = (turns - scaling.slow) / (scaling.fast - scaling.slow)
    between = (1 - kept) * plain / scaling.factor + kept * plain
    slowed = torch.where(turns < scaling.slow, plain / scaling.factor, between)
    return torch.where(turns > scaling.fast, plain, slowed)


def _yarn_ramp(shape: Shape, scaling: RopeScaling, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 for frequencies that stay, 1 for those that are scaled: (head_dim / 2)."""

    def number(turns: float) -> float:
        """The place, among the head's numbers, of the frequency that turns so often in the original window."""
        log = math.log(scaling.original / (turns * 2 * math.pi))
        return shape.head_dim * log / (2 * math.log(shape.rope_base))

    low, high = number(scaling.fast), number(scaling.slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, shape.head_dim - 1)
    if low == high:
        high += 0.001
    places = torch.arange(shape.head_dim // 2, dtype=dtype, device=device)
    return ((places - low) / (high - low)).clamp(0, 1)


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
