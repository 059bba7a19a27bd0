"""Context parallelism alone: both kinds of attention over slices, and the splitting of a batch."""

import collections
import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.model.attention import attention
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE
from ilm_ray.training.parallel.context import Chunk, Slice, gathered, in_order, padded, slice_of, ulysses
from ilm_ray.training.parallel.ring import parts_of, ring
from tests.processes import run_ranks

ROWS, RANKS = 48, 4


def _whole() -> tuple[torch.Tensor, ...]:
    """q, k, v (rows, heads, head_dim) in fp64 and document borders, some inside slices, some on their edges."""
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(ROWS, h, 8, generator=generator, dtype=torch.float64) for h in (8, 4, 4))
    return q, k, v, torch.tensor([0, 5, 12, 13, 40, 48], dtype=torch.int32)


def _attend(kind: str, folder: str) -> None:
    rank, group = dist.get_rank(), dist.group.WORLD
    assert group is not None
    q, k, v, borders = _whole()
    numbers = torch.arange(ROWS)
    batch, mine = slice_of(Packed(numbers, numbers, borders, 27), numbers, rank, RANKS, kind)
    assert mine is not None
    local = [t[mine].clone().requires_grad_() for t in (q, k, v)]
    out = {"ulysses": ulysses, "gather": gathered, "ring": ring}[kind](group, *local, *batch.borders)
    (out * mine[:, None, None]).sum().backward()
    torch.save([mine, out.detach(), *(t.grad for t in local)], Path(folder) / f"{rank}.pt")


def _compare(kind: str, folder: Path) -> None:
    run_ranks(_attend, RANKS, kind, str(folder))
    parts = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    q, k, v, borders = _whole()
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = attention(*inputs, borders, 27)
    (out * torch.arange(ROWS)[:, None, None]).sum().backward()
    order = torch.cat([part[0] for part in parts])
    assert order.sort().values.equal(torch.arange(ROWS))
    for number, expected in enumerate([out, *(t.grad for t in inputs)], 1):
        whole = torch.cat([part[number] for part in parts])
        torch.testing.assert_close(whole, expected[order], atol=1e-11, rtol=1e-11)


@pytest.mark.ranks
def test_ulysses_on_slices_is_attention_on_the_whole(tmp_path: Path) -> None:
    _compare("ulysses", tmp_path)


@pytest.mark.ranks
def test_gathered_keys_and_values_give_attention_on_the_whole(tmp_path: Path) -> None:
    _compare("gather", tmp_path)


@pytest.mark.ranks
def test_keys_that_travel_give_attention_on_the_whole(tmp_path: Path) -> None:
    _compare("ring", tmp_path)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), ranks=st.integers(1, 5))
def test_parts_of_all_ranks_are_the_whole_attention_once(lengths: list[int], ranks: int) -> None:
    lengths[-1] += -sum(lengths) % (2 * ranks)
    ends = [0, *itertools.accumulate(lengths)]
    size = ends[-1] // (2 * ranks)

    def rows_of(rank: int) -> list[int]:
        return [chunk * size + row for chunk in (rank, 2 * ranks - 1 - rank) for row in range(size)]

    seen = collections.Counter[tuple[int, int]]()
    for rank in range(ranks):
        for part in parts_of(ends, rank, ranks):
            rows, keys = rows_of(rank)[part.rows], rows_of((rank - part.distance) % ranks)[part.keys]
            if part.borders is None:
                seen.update(itertools.product(rows, keys))
                continue
            for first, last in itertools.pairwise(part.borders):
                seen.update((rows[a], keys[b]) for a in range(first, last) for b in range(first, a + 1))
    document = [d for d, n in enumerate(lengths) for _ in range(n)]
    expected = [(row, key) for row in range(ends[-1]) for key in range(row + 1) if document[row] == document[key]]
    assert seen == collections.Counter(expected)


@given(ranks=st.integers(1, 6), size=st.integers(1, 9))
def test_every_round_of_a_ring_is_as_long_on_all_ranks(ranks: int, size: int) -> None:
    work = collections.Counter[tuple[int, int]]()
    for rank in range(ranks):
        for part in parts_of([0, 2 * ranks * size], rank, ranks):
            rows, keys = part.rows.stop - part.rows.start, part.keys.stop - part.keys.start
            work[part.distance, rank] += rows * keys if part.borders is None else rows * (rows + 1) // 2
    for distance in range(ranks):
        assert len({work[distance, rank] for rank in range(ranks)}) == 1


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[int], int, int]:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    first = draw(st.integers(0, sum(lengths) - 1))
    return lengths, first, draw(st.integers(first + 1, sum(lengths)))


@given(documents())
def test_a_chunk_knows_for_every_row_which_keys_it_sees(drawn: tuple[list[int], int, int]) -> None:
    lengths, first, last = drawn
    ends = list(itertools.accumulate(lengths))
    chunk = Chunk.of(torch.tensor([0, *ends], dtype=torch.int32), first, last)
    queries, keys = chunk.borders, chunk.key_borders
    assert len(queries) == len(keys) and queries[-1] == last - first
    assert keys[-1] == chunk.keys.stop - chunk.keys.start and chunk.longest == int(keys.diff().max())
    assert queries.dtype == keys.dtype == torch.int32
    document = [d for d, n in enumerate(lengths) for _ in range(n)]
    seen = {}
    for (a, b), (c, d) in zip(itertools.pairwise(queries.tolist()), itertools.pairwise(keys.tolist()), strict=True):
        for row in range(a, b):
            last_key = d - (b - row) + 1  # the queries are the last of the document's tokens
            seen[first + row] = [chunk.keys.start + key for key in range(c, last_key)]
    expected = {row: [key for key in range(row + 1) if document[key] == document[row]] for row in range(first, last)}
    assert seen == expected


def test_slices_of_a_padded_batch_are_the_batch_and_predict_nothing_more() -> None:
    batch = Packed.of([[5, 6, 7], [8, 9], [1, 2]])
    labels = torch.tensor([6, 7, IGNORE, 9, IGNORE, 2, IGNORE])
    filled, filled_labels = padded(batch, labels, 12)
    assert filled.cu_seqlens.tolist() == [0, 3, 5, 7, 12] and filled.max_seqlen == 5
    assert filled_labels is not None
    parts = [slice_of(filled, filled_labels, rank, 4, "ulysses") for rank in range(4)]
    assert torch.cat([p.tokens for p, _ in parts])[:7].equal(batch.tokens)
    assert torch.cat([p.positions for p, _ in parts]).tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1, 2, 3, 4]
    joined = torch.cat([y for _, y in parts if y is not None])
    assert joined[:7].equal(labels) and (joined[7:] == IGNORE).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_two_chunks_of_a_slice_give_every_rank_as_many_keys(ranks: int) -> None:
    rows = 2 * ranks * 7
    batch = Packed.of([list(range(rows))])
    slices = [slice_of(batch, batch.tokens, rank, ranks, "gather") for rank in range(ranks)]
    joined = torch.cat([part.tokens for part, _ in slices])
    assert in_order(joined, ranks).equal(torch.arange(rows))
    assert len({int((part.positions + 1).sum()) for part, _ in slices}) == 1  # a row sees its position and all before
    for part, labels in slices:
        assert isinstance(part, Slice) and labels is not None and labels.equal(part.tokens)
