"""Context parallelism: every rank has a slice of each packed row of tokens and attends to all that precede it."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from ilm_ray.training.parallel.ring import packed, parts_of, ring


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of a rank's slice, and the keys of the whole row of tokens that they see.

    Numbers and borders follow from the documents alone: they are made once a batch on the CPU, for reading them from a
    device in every layer would wait for it.
    """

    keys: slice  # in the whole row
    borders: Tensor  # int32 (documents + 1), of the chunk's rows from 0
    key_borders: Tensor  # as many, of `keys` from 0
    longest: int  # document, in keys

    @classmethod
    def of(cls, cu_seqlens: Tensor, first: int, last: int) -> "Chunk":
        """Rows [first, last) of a row of tokens; cu_seqlens: its documents, on a CPU."""
        ends = cu_seqlens.tolist()
        begin = max(end for end in ends if end <= first)  # of the first row's document
        inside = [end for end in ends if first < end < last]
        rows, keys = [first, *inside, last], [begin, *inside, last]
        longest = max(b - a for a, b in itertools.pairwise(keys))
        borders, key_borders = (torch.tensor(b, dtype=torch.int32) for b in (rows, keys))
        return cls(slice(begin, last), borders - first, key_borders - begin, longest)

    def to(self, device: torch.device) -> "Chunk":
        return dataclasses.replace(self, borders=self.borders.to(device), key_borders=self.key_borders.to(device))


@dataclass
class Slice(Packed):
    """A rank's rows of a batch in two chunks of equal length; the documents' borders stay those of the whole row."""

    chunks: tuple[Chunk, Chunk]

    def to(self, device: torch.device) -> "Slice":
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "positions", "cu_seqlens")}
        first, second = self.chunks
        return dataclasses.replace(self, **moved, chunks=(first.to(device), second.to(device)))

    @property
    def borders(self) -> tuple[Any, ...]:
        return (self.chunks,)


@dataclass
class RingSlice(Packed):
    """A rank's rows of a batch in two chunks, and the parts of ring attention that they are in (`ring.packed`)."""

    numbers: Tensor
    part_borders: Tensor

    def to(self, device: torch.device) -> "RingSlice":
        names = ("tokens", "positions", "cu_seqlens", "part_borders")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def borders(self) -> tuple[Any, ...]:
        return self.numbers, self.part_borders


def split_context(model: CausalLM | ScalarModel, group: ProcessGroup, kind: str) -> None:
    """Make the attention of every block one over the rows of all ranks of `group`, in place."""
    exchanges: dict[str, Callable[..., Tensor]] = {"ulysses": ulysses, "gather": gathered, "ring": ring}
    exchange = exchanges[kind]
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = functools.partial(exchange, group, attend=module.attend)


def slice_of(batch: Packed, labels: Tensor | None, rank: int, ranks: int, kind: str) -> tuple[Packed, Tensor | None]:
    """Rank's tokens, positions and labels; the document borders stay those of the whole row.

    ulysses: neighbouring rows, `ranks` divides their number. gather, ring: of 2 * ranks chunks the `rank`-th from each
    end, so that every rank attends to as many keys (zigzag, as in Llama 3's training, arXiv 2407.21783
    section 3.3.2); 2 * ranks divides the number of rows.
    """
    rows = len(batch.tokens)
    if kind == "ulysses":
        mine = slice(rank * rows // ranks, (rank + 1) * rows // ranks)
        part = dataclasses.replace(batch, tokens=batch.tokens[mine], positions=batch.positions[mine])
        return part, None if labels is None else labels[mine]
    size = rows // (2 * ranks)
    starts = [number * size for number in (rank, 2 * ranks - 1 - rank)]

    def chunks_of(t: Tensor) -> Tensor:
        return torch.cat([t[start : start + size] for start in starts])

    borders = batch.cu_seqlens.cpu()
    rows_of = chunks_of(batch.tokens), chunks_of(batch.positions), batch.cu_seqlens, batch.max_seqlen
    if kind == "ring":
        ringed = RingSlice(*rows_of, *packed(parts_of(borders.tolist(), rank, ranks)))
        return ringed.to(batch.tokens.device), None if labels is None else chunks_of(labels)
    first, second = (Chunk.of(borders, start, start + size) for start in starts)
    part = Slice(*rows_of, (first, second))
    return part.to(batch.tokens.device), None if labels is None else chunks_of(labels)


def in_order(gathered: Tensor, ranks: int) -> Tensor:
    """The rows of all ranks' slices, one slice after the other, in the order of the whole row (not kind ulysses)."""
    chunks = gathered.unflatten(0, (ranks, 2, -1))
    return torch.cat([chunks[:, 0], chunks[:, 1].flip(0)]).flatten(0, 1)


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
    chunks: Sequence[Chunk],
    attend: Callable[..., Tensor] = attention,
) -> Tensor:
    """All keys and values to every rank, each of which attends with its own rows. Shapes as in `ulysses`."""
    whole = in_order(all_gather_single_autograd(torch.stack([k, v], 1), 0, group), dist.get_world_size(group))
    out = []
    for rows, chunk in zip(q.chunk(2), chunks, strict=True):
        keys, values = whole[chunk.keys].unbind(1)
        out.append(attend(rows, keys, values, chunk.borders, chunk.longest, chunk.key_borders))
    return torch.cat(out)


def gather_rows(rows: Tensor, group: ProcessGroup, kind: str) -> Tensor:
    """Per-token results of all slices in the order of the whole row; the gradient of each rank's own rows goes back.

    Every rank must compute the same loss from the result: nothing is added up between them.
    """
    whole = _GatherRows.apply(rows, group)
    return whole if kind == "ulysses" else in_order(whole, dist.get_world_size(group))


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
