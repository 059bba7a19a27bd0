"""The one attention seam: packed documents never see each other.

`attention(q, k, v, cu_seqlens, max_seqlen)` is causal within each document. On CUDA in half precision it is
flash-attn's varlen kernel where that is installed, torch's own otherwise; elsewhere scaled_dot_product_attention one
document at a time, which does no masked work and needs no mask in memory.
"""

import functools
from collections.abc import Callable

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
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):  # the kernels know no other types
        return _cuda_kernel()(q, k, v, cu_seqlens, borders_k, max_seqlen)
    return per_document_attention(q, k, v, cu_seqlens, borders_k)


def per_document_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, cu_seqlens_k: Tensor) -> Tensor:
    """Reference and CPU path: causal SDPA, a document at a time."""
    lengths, lengths_k = cu_seqlens.diff().tolist(), cu_seqlens_k.diff().tolist()
    parts = []
    for document in zip(q.split(lengths), k.split(lengths_k), v.split(lengths_k), strict=True):
        one_q, one_k, one_v = (t.transpose(0, 1).unsqueeze(0) for t in document)
        queries, keys = one_q.shape[2], one_k.shape[2]
        # is_causal lets query i see keys 0..i, which is right only where there are as many keys as queries.
        mask = None if queries == keys else torch.ones(queries, keys, dtype=torch.bool, device=q.device)
        out = F.scaled_dot_product_attention(
            one_q,
            one_k,
            one_v,
            attn_mask=None if mask is None else mask.tril(keys - queries),
            is_causal=mask is None,
            enable_gqa=True,
        )
        parts.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(parts)


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
