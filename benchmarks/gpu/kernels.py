"""Attention by one named kernel, for whatever version of it is installed."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import Skipped
from ilm_ray.model.attention import attention, attention_by_run

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
MODULES = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}
IMPLEMENTATIONS = {"torch FA3": "FA3", "torch FA4": "FA4"}
# seam: as the model calls it; sdpa: document by document; torch: torch's varlen kernel, also with its operator's
# FlashAttention 2 replaced by an installed 3 or 4; flash2, flash3, flash4: the packages' own functions.
KERNELS = ("seam", "sdpa", "torch", *IMPLEMENTATIONS, *MODULES)
ON_CPUS = ("seam", "sdpa")


def kernel(name: str, device: str) -> Attend:
    """`attention`'s first five arguments by the kernel `name`. Raises ImportError, or Skipped where it cannot run."""
    if device == "cpu" and name not in ON_CPUS:
        raise Skipped("needs a CUDA device")
    if name == "seam":
        return attention
    if name == "sdpa":
        return lambda q, k, v, borders, _longest: attention_by_run(q, k, v, borders, borders)
    _choose_implementation(IMPLEMENTATIONS.get(name))
    return _package(MODULES[name]) if name in MODULES else _torch_varlen()


def usable(device: str) -> Attend:
    """The attention of training: the seam, or torch's kernel behind it where its signature is another one."""
    if device == "cpu":
        return attention
    _choose_implementation(None)
    return attention if _seam_works() else _half_by(_torch_varlen())


@functools.cache
def _seam_works() -> bool:
    q = torch.zeros(8, 2, 64, device="cuda", dtype=torch.bfloat16)
    try:
        attention(q, q, q, torch.tensor([0, 8], device="cuda", dtype=torch.int32), 8)
    except TypeError:
        return False
    return True


def _half_by(attend: Attend) -> Attend:
    def by_type(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int) -> Tensor:
        if q.dtype == torch.float32:
            return attention_by_run(q, k, v, borders, borders)
        return attend(q, k, v, borders, longest)

    return by_type


def _choose_implementation(name: str | None) -> None:
    """Set the FlashAttention behind torch's own operator, for this process; None: torch's."""
    try:
        from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl
    except ImportError:
        if name is not None:
            raise Skipped(f"torch {torch.__version__} has no activate_flash_attention_impl") from None
        return
    if name is None:
        restore_flash_attention_impl(_raise_warn=False)
        return
    try:
        activate_flash_attention_impl(name)
    except ValueError as error:  # this torch does not know it
        raise Skipped(str(error)) from None


def _package(module: str) -> Attend:
    function = importlib.import_module(module).flash_attn_varlen_func
    lengths = [name for name in ("max_seqlen_q", "max_seqlen_k") if name in inspect.signature(function).parameters]

    def attend(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int) -> Tensor:
        named = {"cu_seqlens_q": borders, "cu_seqlens_k": borders, **dict.fromkeys(lengths, longest)}
        out = function(q, k, v, causal=True, **named)
        return out[0] if isinstance(out, tuple) else out

    return attend


def _torch_varlen() -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped = "enable_gqa" in known
    if grouped:
        causal["enable_gqa"] = True

    def attend(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int) -> Tensor:
        if not grouped:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        out = varlen_attn(q, k, v, borders, borders, longest, longest, **causal)
        return out[0] if isinstance(out, tuple) else out

    return attend
