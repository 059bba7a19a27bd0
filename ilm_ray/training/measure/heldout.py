"""Bits per byte on held-out documents: comparable across tokenizers, contexts and phases."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilm_ray.config.training import PhaseConfig
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE

Window = tuple[Packed, Tensor]


def heldout_windows(source: TokenSource, context: int, tokens: int, per_window: int) -> list[Window]:
    """The first `tokens` tokens of a source's documents, cut to `context`, packed about `per_window` at a time."""
    windows, inputs, labels, held, total = list[Window](), list[np.ndarray](), list[np.ndarray](), 0, 0
    for number in range(len(source)):
        document = source.tokens(number).astype(np.int64)
        for start in range(0, len(document), context):
            piece, following = document[start : start + context], document[start + 1 : start + context + 1]
            inputs.append(piece)
            labels.append(np.pad(following, (0, len(piece) - len(following)), constant_values=IGNORE))
            held, total = held + len(piece), total + len(piece)
            if held >= per_window or total >= tokens:
                windows.append((packed_from_arrays(inputs), torch.from_numpy(np.concatenate(labels))))
                inputs, labels, held = [], [], 0
            if total >= tokens:
                return windows
    if inputs:
        windows.append((packed_from_arrays(inputs), torch.from_numpy(np.concatenate(labels))))
    return windows


def phase_windows(
    heldout: Mapping[str, TokenSource], phase: PhaseConfig, tokens: int, packed: int | None = None
) -> dict[str, list[Window]]:
    """Held-out windows of the sources of a phase, `tokens` of each, cut to the phase's context.

    packed: tokens of a window; None: a context, or 1,024.
    """
    return {
        name: heldout_windows(source, phase.context, tokens, packed or max(phase.context, 1024))
        for name, source in heldout.items()
        if name in phase.mixture and len(source)
    }


def bits_and_bytes(model: Any, window: Window, byte_lengths: Tensor) -> list[float]:
    """[bits, bytes] of the predicted tokens. byte_lengths: (vocabulary) bytes a token stands for, 0 for specials."""
    batch, labels = window
    device = next(model.parameters()).device
    bits = model(batch.to(device), labels.to(device)).double().sum().item() / math.log(2)
    return [bits, float(byte_lengths[labels[labels != IGNORE]].sum())]


def bits_per_byte(
    model: Any,
    windows: dict[str, list[Window]],
    byte_lengths: Tensor,
    summed_over: Callable[[Any, Sequence[Window], Callable[[Any, Window], list[float]]], list[float]],
) -> dict[str, float]:
    """Bits per byte per source and over all; `summed_over(model, windows, f)` adds f up over windows (and ranks)."""
    out, total_bits, total_size = {}, 0.0, 0.0
    for name, parts in windows.items():
        bits, size = summed_over(model, parts, lambda m, w: bits_and_bytes(m, w, byte_lengths))
        out[name] = bits / size
        total_bits, total_size = total_bits + bits, total_size + size
    return out | {"all": total_bits / total_size} if out else out
