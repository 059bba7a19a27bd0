"""Inputs on which PPO systems are known to differ: what stands behind a mask, gaps, short and endless responses."""

from dataclasses import dataclass

import torch
from torch import Tensor

B, T = 5, 24


@dataclass(frozen=True)
class Case:
    """A padded batch in fp64: (sequences, tokens) each; mask: bool, True where the policy chose the token.

    Values, rewards and log-probabilities are random everywhere, behind the mask too: padding is never zero.
    """

    rewards: Tensor
    values: Tensor
    policy: Tensor
    reference: Tensor
    scores: Tensor  # (sequences)
    mask: Tensor


def case(mask: Tensor, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    shape = mask.shape
    rewards, values, first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
    scores = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    return Case(rewards, values, -first.abs(), -second.abs(), scores, mask)


def _mask(*rows: str) -> Tensor:
    """Rows of `#` (chosen by the policy) and `.` (tool output or padding)."""
    width = max(map(len, rows))
    return torch.tensor([[c == "#" for c in row.ljust(width, ".")] for row in rows])


# A response that was cut off for its length has no end token: its mask is full to the last position.
MASKS = {
    "full, no end token": torch.ones(B, T, dtype=torch.bool),
    "ragged, padding not zero": _mask("#" * 24, "#" * 17, "#" * 9, "#" * 2),
    "one-token response": _mask("#", "#" * 6),
    "all-masked row": _mask("." * 8, "#" * 8, "#" * 5),
    "prompt in front": _mask("..######", "....####", "#####"),
    "tool gap": _mask("#####....######", "###.##.####....", "#########......"),
    "tool gap at the end": _mask("######..........", "####..##....####", "################"),
}
CONTIGUOUS = ["full, no end token", "ragged, padding not zero", "one-token response", "all-masked row"]
GAPS = ["tool gap", "tool gap at the end"]
