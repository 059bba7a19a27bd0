"""Bits per byte by the number of tokens before: a model that uses its context gets better further on."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.training.measure.heldout import Window

LOG2_E = 1.4426950408889634


def bucket_edges(length: int) -> list[int]:
    """Upper edges of the buckets: 1, 2, 4, ... and `length`. A token is in the first bucket whose edge is no less than
    the number of tokens before it."""
    powers = [2**n for n in range(length.bit_length()) if 2**n < length]
    return [*powers, length]


def measured_length(longest: int, context: int) -> int:
    """Tokens of a window: the context, or, where the longest document (`longest` tokens) does not fill it, the greatest
    power of two that it fills. A window of n tokens needs n + 1: the last one is only predicted. 0: it fills none."""
    if longest > context:
        return context
    return 1 << ((longest - 1).bit_length() - 1) if longest > 1 else 0


def full_windows(documents: Iterable[np.ndarray], length: int, most: int) -> list[Window]:
    """The first `most` windows of exactly `length` tokens each, from the beginnings of documents on.

    All have a token in every bucket, so that buckets differ by position and not by which documents reach them.
    """
    windows = list[Window]()
    for document in documents:
        tokens = document.astype(np.int64)
        for start in range(0, len(tokens) - length, length):
            if len(windows) == most:
                return windows
            following = torch.from_numpy(tokens[start + 1 : start + length + 1])
            windows.append((packed_from_arrays([tokens[start : start + length]]), following))
    return windows


def sums_by_position(
    losses: Tensor, labels: Tensor, before: Tensor, byte_lengths: Tensor, edges: Sequence[int]
) -> Tensor:
    """Sums of each bucket, float64 (3, buckets): bits, bytes, tokens.

    losses: nats of each predicted token (n); labels: those tokens (n); before: number of tokens before each,
    from 1 to the last edge (n); byte_lengths: bytes of text that each id of the vocabulary stands for.
    """
    bucket = torch.bucketize(before, torch.tensor(edges))
    added = torch.stack([losses.double() * LOG2_E, byte_lengths[labels].double(), torch.ones(len(labels)).double()])
    return torch.zeros(3, len(edges), dtype=torch.float64).index_add_(1, bucket, added)


def windows_by_position(model: Any, windows: Sequence[Window], byte_lengths: Tensor, edges: Sequence[int]) -> Tensor:
    """`sums_by_position` over whole windows."""
    total = torch.zeros(3, len(edges), dtype=torch.float64)
    device = next(model.parameters()).device
    for batch, labels in windows:
        losses = model(batch.to(device), labels.to(device)).cpu()
        total += sums_by_position(losses, labels, batch.positions + 1, byte_lengths, edges)
    return total


def position_curve(sums: Tensor, edges: Sequence[int], windows: int) -> dict[str, Any]:
    """For the report, one entry a bucket: bits per byte (None where its tokens stand for no byte), nats a token."""
    bits, sizes, tokens = sums.tolist()
    return {
        "edges": list(edges),
        "windows": windows,
        "tokens": [int(n) for n in tokens],
        "bits_per_byte": [b / size if size else None for b, size in zip(bits, sizes, strict=True)],
        "loss": [b / LOG2_E / n if n else None for b, n in zip(bits, tokens, strict=True)],
    }
