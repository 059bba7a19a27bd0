"""The one attention seam: packed documents never see each other.

`attention(q, k, v, cu_seqlens, max_seqlen)` is causal within each document. On CUDA in half precision it calls a varlen
kernel, which `varlen_kernel` chooses when a model is built; elsewhere torch's kernels a run of equally long documents
at a time, which do no masked work and need no mask in memory.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import attention as kernels
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

# (q, k, v, borders of the queries' documents, of the keys', longest document) -> q's shape
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
# FlashAttention 3 and 4 by the major number of a card's compute capability, the better first: 3 was written for
# Hopper (arXiv 2407.08608) and runs there alone, 4 for Blackwell; torch lets 4 run on both.
NEWER_KERNELS = {9: ("FA3", "FA4"), 10: ("FA4",)}


def torch_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest: int) -> Tensor:
    """torch's own varlen kernel: FlashAttention 2, unless `varlen_kernel` has put a newer one behind its operator."""
    # In torch 2.13 causal is said by the window: everything to the left, nothing to the right.
    out = varlen_attn(q, k, v, cu_q, cu_k, longest, longest, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)  # a pair only when the log-sum-exp is asked for
    return out


def varlen_kernel(device: torch.device) -> Varlen:
    """The fastest kernel installed for `device`: FlashAttention 3 or 4, flash-attn 2, else torch's own.

    Call it where a model is built, not in a forward: torch.compile cannot trace an import, and drops a block that it
    cannot trace whole where the block is recomputed. A newer kernel takes the place of torch's in the whole process
    (torch.nn.attention.activate_flash_attention_impl).
    """
    if device.type == "cuda" and _activated(torch.cuda.get_device_capability(device)[0]):
        return torch_varlen
    try:
        from flash_attn import flash_attn_varlen_func  # flash-attn 4 has this package's name and not this function
    except ImportError:
        return torch_varlen

    def flash(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest: int) -> Tensor:
        return flash_attn_varlen_func(q, k, v, cu_q, cu_k, longest, longest, causal=True)

    return flash


def _activated(major: int) -> bool:
    """Whether a newer kernel is behind torch's operator: it is put there where it is installed and the card fits."""
    if kernels.current_flash_attention_impl() is not None:
        return True
    for name in NEWER_KERNELS.get(major, ()):
        try:
            kernels.activate_flash_attention_impl(name)
        except (ImportError, RuntimeError):  # it is not installed, or is without a backward
            continue
        return True
    return False


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    cu_seqlens_k: Tensor | None = None,
    kernel: Varlen = torch_varlen,
) -> Tensor:
    """q: (tokens, heads, head_dim); k, v: (keys, kv_heads, head_dim); returns q's shape.

    cu_seqlens: int32 (documents + 1), borders of the documents, from 0 to tokens; max_seqlen: the longest of them.
    Where a document has more keys than queries (borders `cu_seqlens_k`), its queries are the last of its tokens.
    kernel: see `varlen_kernel`.
    """
    borders_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    if _has_kernel(q):
        return kernel(q, k, v, cu_seqlens, borders_k, max_seqlen)
    if q.is_cuda:
        return attention_by_run(q, k, v, cu_seqlens, borders_k)
    return document_attention(q, k, v, cu_seqlens, borders_k)[0]


def _has_kernel(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)  # the kernels know no other types


class Run(NamedTuple):
    """Neighbouring documents of one length: the work of one call of a kernel."""

    documents: int
    queries: slice
    keys: slice


def runs(cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Iterator[Run]:
    """The documents as runs, in order."""
    borders = list(zip(cu_seqlens.tolist(), cu_seqlens_k.tolist(), strict=True))
    documents = [(a, b) for a, b in itertools.pairwise(borders) if b[0] > a[0]]
    for _, same in itertools.groupby(documents, key=lambda d: (d[1][0] - d[0][0], d[1][1] - d[0][1])):
        run = list(same)
        (first, first_k), (last, last_k) = run[0][0], run[-1][1]
        yield Run(len(run), slice(first, last), slice(first_k, last_k))


def attention_by_run(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Tensor:
    """`attention` by scaled_dot_product_attention alone, on any device: the reference for the other ways."""
    out = []
    for run in runs(cu_seqlens, cu_seqlens_k):
        one_q, one_k, one_v = (
            _by_head(q, run.documents, run.queries),
            *(_by_head(t, run.documents, run.keys) for t in (k, v)),
        )
        mask = _mask(one_q, one_k)
        got = F.scaled_dot_product_attention(
            one_q, one_k, one_v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        out.append(got.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)


def _by_head(t: Tensor, documents: int, rows: slice) -> Tensor:
    """Rows of a run, (rows, heads, ...), as (documents, heads, rows of one, ...)."""
    return t[rows].unflatten(0, (documents, -1)).transpose(1, 2)


def _mask(q: Tensor, k: Tensor) -> Tensor | None:
    """The mask to add to scores where queries are the last of more keys; None where the plain lower triangle does."""
    queries, keys = q.shape[2], k.shape[2]
    if queries == keys:
        return None
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))


# One operator for torch.compile, to which the lengths of documents are then mere contents of a tensor, and for
# activation checkpointing, which keeps what it gives.
@torch.library.custom_op("ilm_ray::document_attention", mutates_args=(), device_types="cpu")
def document_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor
) -> tuple[Tensor, Tensor]:
    """`attention` on a CPU, and of each query the logarithm of its summed exponentials, (tokens, heads), >= fp32."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    sums = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    for run in runs(cu_seqlens, cu_seqlens_k):
        one_q, one_k, one_v = (
            _by_head(t, run.documents, at) for t, at in ((q, run.queries), (k, run.keys), (v, run.keys))
        )
        mask = _mask(one_q, one_k)
        got, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            one_q, one_k, one_v, 0.0, mask is None, attn_mask=mask
        )
        _by_head(out, run.documents, run.queries).copy_(got)
        _by_head(sums, run.documents, run.queries).copy_(log_sum)
    return out, sums


@torch.library.custom_op("ilm_ray::document_attention_backward", mutates_args=(), device_types="cpu")
def document_attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; out, sums: the output of `document_attention`, also where other keys were seen
    beside."""
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (k, v))  # some are not seen
    for run in runs(cu_seqlens, cu_seqlens_k):
        query_side = [_by_head(t, run.documents, run.queries) for t in (gradient, q, out, sums)]
        one_gradient, one_q, one_out, log_sum = query_side
        one_k, one_v = (_by_head(t, run.documents, run.keys) for t in (k, v))
        mask = _mask(one_q, one_k)
        got = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            one_gradient, one_q, one_k, one_v, one_out, log_sum, 0.0, mask is None, attn_mask=mask
        )
        for whole, part, rows in zip((grad_q, grad_k, grad_v), got, (run.queries, run.keys, run.keys), strict=True):
            _by_head(whole, run.documents, rows).copy_(part)
    return grad_q, grad_k, grad_v


@document_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> tuple[Tensor, Tensor]:
    sums = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    return torch.empty_like(q, memory_format=torch.contiguous_format), sums


@document_attention_backward.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *borders = inputs
    ctx.save_for_backward(q, k, v, *output, *borders)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
    return *document_attention_backward(gradient, *ctx.saved_tensors), None, None


document_attention.register_autograd(_backward, setup_context=_keep)
