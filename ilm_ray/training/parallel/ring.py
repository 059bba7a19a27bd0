"""Ring attention (arXiv 2310.01889): keys and values travel from rank to rank, partial results are merged.

For more ranks than KV heads, and without all keys in one place. A rank has the r-th chunk of rows from the front and
from the back (`context.slice_of`), which gives all ranks as much work in every round (zigzag, as in
https://github.com/zhuzilin/ring-flash-attention). Documents are honoured: a part is computed only where a document
reaches into both of its chunks.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import GroupName, _resolve_process_group

from ilm_ray.model.attention import document_attention, document_attention_backward

_aten, _varlen = torch.ops.aten, torch.ops.torch_attn


class Part(NamedTuple):
    """Rows of this rank that attend to keys of the rank whose keys arrive in round `distance`.

    Rows and keys count from 0 in a slice. borders: of documents within a chunk that attends to itself, causally; else
    all rows of the part see all of its keys.
    """

    distance: int
    rows: slice
    keys: slice
    borders: tuple[int, ...] | None

    @property
    def longest(self) -> int:
        if self.borders is None:
            return max(self.rows.stop - self.rows.start, self.keys.stop - self.keys.start)
        return max(b - a for a, b in itertools.pairwise(self.borders))


def parts_of(ends: list[int], rank: int, ranks: int) -> list[Part]:
    """Parts of a rank, in the order of the rounds; ends: borders of the documents from 0 to the number of rows."""
    size = ends[-1] // (2 * ranks)
    parts = []
    for distance in range(ranks):
        source = (rank - distance) % ranks
        for (place, chunk), (key_place, keys) in itertools.product(
            enumerate((rank, 2 * ranks - 1 - rank)), enumerate((source, 2 * ranks - 1 - source))
        ):
            first, here, there = chunk * size, place * size, key_place * size
            if keys == chunk:
                inside = [end - first for end in ends if first < end < first + size]
                whole = slice(here, here + size)
                parts.append(Part(distance, whole, slice(there, there + size), (0, *inside, size)))
            elif keys < chunk:
                begin = max(end for end in ends if end <= first)  # of the document that the chunk's first row is in
                end = min(end for end in ends if end > first)
                unseen, rows = max(0, begin - keys * size), min(size, end - first)
                if unseen < size:
                    parts.append(Part(distance, slice(here, here + rows), slice(there + unseen, there + size), None))
    return parts


def packed(parts: list[Part]) -> tuple[Tensor, Tensor]:
    """Parts as two tensors: numbers (parts, 8), which stay on the CPU, and borders int32, for the device.

    As tensors their values are nothing that torch.compile compiles anew for.
    """
    numbers, borders = [], list[int]()
    for part in parts:
        rows, keys = part.rows.stop - part.rows.start, part.keys.stop - part.keys.start
        part_borders = part.borders or (0, rows, 0, keys)
        place = len(borders)
        borders += part_borders
        numbers.append(
            [part.distance, part.rows.start, part.rows.stop, part.keys.start, part.keys.stop, place,
             len(borders) if part.borders else 0, part.longest]
        )  # fmt: skip
    return torch.tensor(numbers, dtype=torch.int64).view(-1, 8), torch.tensor(borders, dtype=torch.int32)


def ring(group: ProcessGroup, q: Tensor, k: Tensor, v: Tensor, numbers: Tensor, borders: Tensor, **_: Any) -> Tensor:
    """Attention of this rank's rows over the rows of all ranks; numbers, borders: see `packed`.

    q: (rows, heads, head_dim); k, v: (rows, kv_heads, head_dim). On CUDA a half precision.
    """
    return ring_attention(q, k, v, numbers, borders, group.group_name)[0]


class _Piece(NamedTuple):
    """A part as the kernels take it."""

    rows: slice
    keys: slice
    causal: bool
    borders: Tensor
    key_borders: Tensor
    longest: int


def _rounds(numbers: Tensor, borders: Tensor, ranks: int) -> list[list[_Piece]]:
    rounds: list[list[_Piece]] = [[] for _ in range(ranks)]
    for distance, first, last, key, key_last, place, end, longest in numbers.tolist():
        if end:
            queries = keys = borders[place:end]
        else:
            queries, keys = borders[place : place + 2], borders[place + 2 : place + 4]
        rounds[distance].append(_Piece(slice(first, last), slice(key, key_last), end > 0, queries, keys, longest))
    return rounds


# One operator for torch.compile and for activation checkpointing, which keeps what it gives and sends nothing again.
@torch.library.custom_op("ilm_ray::ring_attention", mutates_args=())
def ring_attention(
    q: Tensor, k: Tensor, v: Tensor, numbers: Tensor, borders: Tensor, group_name: str
) -> tuple[Tensor, Tensor]:
    """(q's shape; of each query the logarithm of its summed exponentials, (rows, heads), >= fp32)"""
    exact = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros(q.shape, dtype=exact, device=q.device)
    sums = torch.full(q.shape[:2], float("-inf"), dtype=exact, device=q.device)
    group = _resolve_process_group(GroupName(group_name))
    rounds = _rounds(numbers, borders, dist.get_world_size(group))
    for pieces, pair in zip(rounds, _travelling(torch.stack([k, v]), group), strict=True):
        for piece in pieces:
            part, log_sum = _forward(q[piece.rows], pair[0][piece.keys], pair[1][piece.keys], piece)
            before = sums[piece.rows]
            both = torch.logaddexp(before, log_sum)
            out[piece.rows] *= (before - both).exp()[..., None]
            out[piece.rows] += part * (log_sum - both).exp()[..., None]
            sums[piece.rows] = both
    return out.to(q.dtype), sums


@torch.library.custom_op("ilm_ray::ring_attention_backward", mutates_args=())
def _ring_attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    numbers: Tensor,
    borders: Tensor,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    group = _resolve_process_group(GroupName(group_name))
    ranks = dist.get_world_size(group)
    gradient, grad_q = gradient.contiguous(), torch.zeros(q.shape, dtype=sums.dtype, device=q.device)
    # Gradients of keys travel with their keys, a round behind them, and one round more to where those came from.
    grad_pair = torch.zeros((2, *k.shape), dtype=sums.dtype, device=k.device)
    for pieces, pair in zip(_rounds(numbers, borders, ranks), _travelling(torch.stack([k, v]), group), strict=True):
        for piece in pieces:
            rows, keys = piece.rows, piece.keys
            given = _backward(gradient[rows], q[rows], pair[0][keys], pair[1][keys], out[rows], sums[rows], piece)
            for whole, part in zip((grad_q[rows], grad_pair[0][keys], grad_pair[1][keys]), given, strict=True):
                whole += part
        grad_pair = _passed_on(grad_pair, group)
    grad_k, grad_v = (grad.to(k.dtype, copy=True) for grad in grad_pair)  # results of an operator share no memory
    return grad_q.to(q.dtype), grad_k, grad_v


@ring_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, numbers: Tensor, borders: Tensor, group_name: str) -> tuple[Tensor, Tensor]:
    sums = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    return torch.empty_like(q, memory_format=torch.contiguous_format), sums


@_ring_attention_backward.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, numbers, borders, ctx.group_name = inputs
    ctx.save_for_backward(q, k, v, *output, numbers, borders)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, gradient: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
    return *_ring_attention_backward(gradient, *ctx.saved_tensors, ctx.group_name), None, None, None


ring_attention.register_autograd(_gradients, setup_context=_keep)


def _travelling(pair: Tensor, group: ProcessGroup) -> Iterator[Tensor]:
    """Keys and values of this rank, then those of each rank before it; the next ones arrive while these are used."""
    ranks = dist.get_world_size(group)
    for distance in range(ranks):
        following, works = pair, list[Any]()
        if distance < ranks - 1:
            following, works = _begin_to_pass(pair, group)
        yield pair
        for work in works:
            work.wait()
        pair = following


def _passed_on(tensor: Tensor, group: ProcessGroup) -> Tensor:
    if dist.get_world_size(group) == 1:
        return tensor
    received, works = _begin_to_pass(tensor, group)
    for work in works:
        work.wait()
    return received


def _begin_to_pass(tensor: Tensor, group: ProcessGroup) -> tuple[Tensor, list[Any]]:
    """Send to the next rank of the ring, receive from the one before."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    received = torch.empty_like(tensor)
    sending = dist.P2POp(dist.isend, tensor, group=group, group_peer=(rank + 1) % ranks)
    receiving = dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - 1) % ranks)
    return received, dist.batch_isend_irecv([sending, receiving])


def _forward(q: Tensor, k: Tensor, v: Tensor, piece: _Piece) -> tuple[Tensor, Tensor]:
    """(attention, logarithm of summed exponentials (rows, heads)) of a part."""
    if q.is_cuda:
        window = [-1, 0] if piece.causal else [-1, -1]
        out, log_sum, _ = _varlen._varlen_attn(
            q, k, v, piece.borders, piece.key_borders, piece.longest, piece.longest, piece.causal, None, window, True
        )
        return out, log_sum.t()
    if piece.causal:
        return document_attention(q, k, v, piece.borders, piece.key_borders)
    out, log_sum = _aten._scaled_dot_product_flash_attention_for_cpu(*map(_by_head, (q, k, v)), 0.0, False)
    return _by_row(out), _by_row(log_sum)


def _backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, piece: _Piece
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a part's queries, keys and values; out, sums: of its rows over the keys of all parts."""
    if q.is_cuda:
        window = [-1, 0] if piece.causal else [-1, -1]
        unused = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the state of a dropout that is none
        given = _varlen._varlen_attn_backward(
            gradient, q, k, v, out, sums.t().contiguous(), piece.borders, piece.key_borders, piece.longest,
            piece.longest, piece.causal, unused, None, window,
        )  # fmt: skip
        return given
    if piece.causal:
        return document_attention_backward(gradient, q, k, v, out, sums, piece.borders, piece.key_borders)
    given = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *map(_by_head, (gradient, q, k, v, out, sums)), 0.0, False
    )
    grad_q, grad_k, grad_v = map(_by_row, given)
    return grad_q, grad_k, grad_v


def _by_head(rows: Tensor) -> Tensor:
    """(rows, heads, ...) as (1, heads, rows, ...)."""
    return rows.transpose(0, 1)[None]


def _by_row(heads: Tensor) -> Tensor:
    return heads[0].transpose(0, 1)
