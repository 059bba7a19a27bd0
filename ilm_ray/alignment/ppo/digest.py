"""Digests of weights, computed by tensor operations on the device where the weights are.

A hash is the sum, modulo 2^64, of a mixed word for each number: its bits beside its position. splitmix64 (Steele, Lea,
Flood 2014) mixes; it maps different words to different words. So a change of any single number always changes the hash,
and numbers that change places change it but for one chance in 2^64. Because it is a sum, the hashes of a matrix' parts
add up to that of the whole, and an engine need not have a whole matrix anywhere.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_MASK = 2**64 - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # by bytes of a number; 8 are two words
_AT_ONCE = {"cpu": 2**16, "cuda": 2**24}  # words that are mixed at once: they fit a cache, they fill a GPU


def digest(tensor: Tensor) -> str:
    """Type, shape and hash of a tensor, in one line."""
    return digest_line(tensor.dtype, tuple(tensor.shape), int(hash_of(tensor)))


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The digest of each tensor, by name; one transfer from the device for all."""
    if not weights:
        return {}
    hashes = torch.stack([hash_of(tensor) for tensor in weights.values()]).tolist()
    return {
        name: digest_line(tensor.dtype, tuple(tensor.shape), value)
        for (name, tensor), value in zip(weights.items(), hashes, strict=True)
    }


def digest_line(dtype: torch.dtype, shape: tuple[int, ...], value: int) -> str:
    """A digest from its parts; `value`: a hash, or a sum of hashes."""
    return f"{str(dtype).removeprefix('torch.')} {'x'.join(map(str, shape))} {value & _MASK:016x}"


@torch.no_grad()
def hash_of(tensor: Tensor, first: tuple[int, int] = (0, 0), columns: int | None = None) -> Tensor:
    """The hash, an int64 scalar on the tensor's device.

    A part of a matrix (rows, numbers) that begins at row and column `first` of a whole with `columns` columns gives its
    share of the whole's hash. Raises ValueError for more than 2^32 words: positions have 32 bits.
    """
    rows = tensor.detach().reshape(len(tensor) if tensor.dim() > 1 else 1, -1)
    size = tensor.element_size()
    words = 2 if size == 8 else 1
    whole = (rows.shape[1] if columns is None else columns) * words
    if (first[0] + len(rows)) * whole > 2**32:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has more words than positions have numbers")
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    at_once = max(1, _AT_ONCE.get(tensor.device.type, 2**16) // max(1, rows.shape[1] * words))
    along = torch.arange(rows.shape[1] * words, device=tensor.device) + first[1] * words
    for start in range(0, len(rows), at_once):
        bits = rows[start : start + at_once].contiguous().view(_WORDS[size]).to(torch.int64) & 0xFFFFFFFF
        across = torch.arange(start, start + len(bits), device=tensor.device) + first[0]
        total += _mixed(((across[:, None] * whole + along) << 32) | bits).sum()
    return total


def _mixed(word: Tensor) -> Tensor:
    """splitmix64 of each int64; multiplication and addition wrap."""
    word = word + _signed(_STEP)
    word = (word ^ _shifted(word, 30)) * _signed(_FIRST)
    word = (word ^ _shifted(word, 27)) * _signed(_SECOND)
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's own drags the sign along."""
    return (word >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
