"""Digests of weights against a slow sum in Python, and what must change them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ilm_ray.alignment.ppo.digest import digest, digest_line, digests, hash_of

MASK = 2**64 - 1
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float64: torch.int64}
KINDS = st.sampled_from(list(BITS))


def _splitmix(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def _slowly(tensor: Tensor) -> int:
    raw = tensor.contiguous().view(torch.uint8).flatten().tolist()
    size = min(4, tensor.element_size())
    words = [int.from_bytes(bytes(raw[i : i + size]), "little") for i in range(0, len(raw), size)]
    # int16 keeps its sign when it widens to 32 bits, int32 has no other bits.
    wide = [w | 0xFFFF0000 if size == 2 and w >= 2**15 else w for w in words]
    return sum(_splitmix((i << 32) | w) for i, w in enumerate(wide)) & MASK


def _tensor(seed: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 7), KINDS)
def test_it_is_the_sum_that_the_definition_says(seed: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    tensor = _tensor(seed, rows, columns, dtype)
    assert int(hash_of(tensor)) & MASK == _slowly(tensor)
    assert hash_of(tensor.T.contiguous().T) == hash_of(tensor)  # layout in memory does not count
    assert digest(tensor) == digests({"a": tensor})["a"]


@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 6), KINDS, st.data())
def test_any_flipped_bit_changes_it(
    seed: int, rows: int, columns: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    tensor = _tensor(seed, rows, columns, dtype)
    bit = data.draw(st.integers(0, 8 * tensor.nbytes - 1))
    flipped = tensor.clone()
    raw = flipped.view(torch.uint8).view(-1)
    raw[bit // 8] ^= 1 << bit % 8
    assert digest(flipped) != digest(tensor)


@given(st.integers(0, 99), st.integers(1, 5), st.integers(2, 6), KINDS, st.data())
def test_numbers_that_change_places_change_it(
    seed: int, rows: int, columns: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    tensor = _tensor(seed, rows, columns, dtype)
    one, other = data.draw(st.lists(st.integers(0, tensor.numel() - 1), min_size=2, max_size=2, unique=True))
    swapped = tensor.clone().view(-1)
    swapped[[one, other]] = swapped[[other, one]]
    same = torch.equal(swapped.view_as(tensor), tensor)
    assert (digest(swapped.view_as(tensor)) == digest(tensor)) == same


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6), KINDS, st.data())
def test_parts_add_up_to_the_whole(seed: int, rows: int, columns: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = _tensor(seed, rows, columns, dtype)
    across, along = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    parts = [
        hash_of(tensor[a:b, c:d], (a, c), columns)
        for a, b in ((0, across), (across, rows))
        for c, d in ((0, along), (along, columns))
        if a < b and c < d
    ]
    value = sum(int(part) for part in parts)
    assert digest_line(dtype, (rows, columns), value) == digest(tensor)


def test_shape_and_type_count_and_large_tensors_are_cut() -> None:
    base = torch.arange(6.0)
    kinds = [base, base.view(2, 3), base.view(3, 2), base.bfloat16(), base.double(), torch.zeros(6), torch.zeros(7)]
    assert len({digest(tensor) for tensor in kinds}) == len(kinds)
    large = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))  # several pieces
    pieces = [hash_of(large[a : a + 100], (a, 0), 700) for a in (0, 100, 200)]
    assert hash_of(large) == sum(pieces)
    changed = large.clone()
    changed[299, 699] += 1e-6
    assert hash_of(changed) != hash_of(large)
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))
    with pytest.raises(ValueError, match="more words"):
        hash_of(torch.empty(2**17, 2**16, device="meta"))
