"""Context parallelism: every rank has a slice of each packed row of tokens and attends to all that precede it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_gather_single_autograd
from torch.nn import functional as F

from ilm_ray.model.attention import attention
from ilm_ray.model.internlm2 import Attention, CausalLM, Packed, ScalarModel
from ilm_ray.model.loss import IGNORE


def split_context(model: CausalLM | ScalarModel, group: ProcessGroup, kind: str) -> None:
    """Make the attention of every block one over the rows of all ranks of `group`, in place."""
    exchange = ulysses if kind == "ulysses" else gathered
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = functools.partial(exchange, group, attend=module.attend)


def slice_of(batch: Packed, labels: Tensor | None, rank: int, ranks: int) -> tuple[Packed, Tensor | None]:
    """Rank's tokens, positions and labels; the document borders stay those of the whole row. `ranks` divides it."""
    mine = slice(rank * len(batch.tokens) // ranks, (rank + 1) * len(batch.tokens) // ranks)
    part = dataclasses.replace(batch, tokens=batch.tokens[mine], positions=batch.positions[mine])
    return part, None if labels is None else labels[mine]


def padded(batch: Packed, labels: Tensor | None, rows: int) -> tuple[Packed, Tensor | None]:
    """The batch with a last document that fills it up to `rows` tokens and is predicted nowhere."""
    more = rows - len(batch.tokens)
    if not more:
        return batch, labels
    filled = Packed(
        F.pad(batch.tokens, (0, more)),
        torch.cat([batch.positions, torch.arange(more, device=batch.positions.device)]),
        F.pad(batch.cu_seqlens, (0, 1), value=rows),
        max(batch.max_seqlen, more),
    )
    return filled, None if labels is None else F.pad(labels, (0, more), value=IGNORE)


def ulysses(
    group: ProcessGroup,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    attend: Callable[..., Tensor] = attention,
) -> Tensor:
    """DeepSpeed-Ulysses (arXiv 2309.14509): one exchange makes slices of rows slices of heads, one makes it undone.

    q: (rows of this rank, heads, head_dim); k, v: (rows, kv_heads, head_dim), kv_heads a multiple of the group's size.
    """
    kv_heads = k.shape[1]
    grouped = torch.cat([q.unflatten(1, (kv_heads, -1)), k.unsqueeze(2), v.unsqueeze(2)], dim=2)
    grouped = _Exchange.apply(grouped, 1, 0, group)
    q, k, v = grouped[:, :, :-2].flatten(1, 2), grouped[:, :, -2], grouped[:, :, -1]
    return _Exchange.apply(attend(q, k, v, cu_seqlens, max_seqlen), 0, 1, group)


def gathered(
    group: ProcessGroup,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    attend: Callable[..., Tensor] = attention,
) -> Tensor:
    """All keys and values to every rank, each of which attends with its own rows. Shapes as in `ulysses`."""
    rank = dist.get_rank(group)
    keys, values = all_gather_single_autograd(torch.stack([k, v], 1), 0, group).unbind(1)
    borders_q, borders_k = local_borders(cu_seqlens, rank * len(q), (rank + 1) * len(q))
    first, last = int(borders_k[0]), (rank + 1) * len(q)
    return attend(q, keys[first:last], values[first:last], borders_q, max_seqlen, borders_k - first)


def local_borders(cu_seqlens: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Borders of the documents that rows [first, last) see: (of those rows from 0, of the keys in the whole row)."""
    inside = cu_seqlens[(cu_seqlens > first) & (cu_seqlens < last)]
    begin = cu_seqlens[cu_seqlens <= first][-1:]  # where the document of the first row begins
    end = torch.full_like(begin, last)
    return torch.cat([torch.full_like(begin, first), inside, end]) - first, torch.cat([begin, inside, end])


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """Per-token results of all slices in order; the gradient of each rank's own rows goes back.

    Every rank must compute the same loss from the result: nothing is added up between them.
    """
    return _GatherRows.apply(rows, group)


def sum_slices(part: Tensor, group: ProcessGroup) -> Tensor:
    """A sum over the rows of all slices from each one's; gradients as in `gather_rows`."""
    return _SumSlices.apply(part, group)


class _Exchange(torch.autograd.Function):
    """Split dimension `scatter` over the group, join dimension `gather`; the backward is the exchange undone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: int, gather: int, group: ProcessGroup) -> Tensor:
        ctx.arguments = scatter, gather, group
        send = torch.stack(x.chunk(dist.get_world_size(group), scatter))
        received = torch.empty_like(send)
        dist.all_to_all_single(received, send, group=group)
        return torch.cat(received.unbind(0), gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        scatter, gather, group = ctx.arguments
        return _Exchange.apply(gradient, gather, scatter, group), None, None, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group, ctx.count = group, len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[dist.get_rank(ctx.group) * ctx.count :][: ctx.count], None


class _SumSlices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup) -> Tensor:
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
