"""The one attention seam: packed documents never see each other.

`attention(q, k, v, cu_seqlens, max_seqlen)` is causal within each document. On CUDA in half precision it is
flash-attn's varlen kernel where that is installed, torch's own otherwise; elsewhere torch's kernels a run of equally
long documents at a time, which do no masked work and need no mask in memory.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, cu_seqlens_k: Tensor | None = None
) -> Tensor:
    """q: (tokens, heads, head_dim); k, v: (keys, kv_heads, head_dim); returns q's shape.

    cu_seqlens: int32 (documents + 1), borders of the documents, from 0 to tokens; max_seqlen: the longest of them.
    Where a document has more keys than queries (borders `cu_seqlens_k`), its queries are the last of its tokens.
    """
    borders_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    if not q.is_cuda:
        return document_attention(q, k, v, cu_seqlens, borders_k)[0]
    if q.dtype in (torch.float16, torch.bfloat16):  # the kernels know no other types
        return _cuda_kernel()(q, k, v, cu_seqlens, borders_k, max_seqlen)
    return attention_by_run(q, k, v, cu_seqlens, borders_k)


class Run(NamedTuple):
    """Neighbouring documents of one length: what one call of a kernel computes."""

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
    """`attention` by scaled_dot_product_attention alone, on any device: what the other ways are compared with."""
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
def _document_attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
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


@_document_attention_backward.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *borders = inputs
    ctx.save_for_backward(q, k, v, *output, *borders)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
    return *_document_attention_backward(gradient, *ctx.saved_tensors), None, None


document_attention.register_autograd(_backward, setup_context=_keep)


@functools.cache
def _cuda_kernel() -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        from torch.nn.attention.varlen import varlen_attn

        def torch_varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest: int) -> Tensor:
            # In torch 2.13 causal is said by the window: everything to the left, nothing to the right.
            out = varlen_attn(q, k, v, cu_q, cu_k, longest, longest, window_size=(-1, 0), enable_gqa=True)
            assert isinstance(out, Tensor)  # a pair only when the log-sum-exp is asked for
            return out

        return torch_varlen

    def flash(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest: int) -> Tensor:
        return flash_attn_varlen_func(q, k, v, cu_q, cu_k, longest, longest, causal=True)

    return flash
