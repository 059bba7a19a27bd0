"""Cross-entropy without the whole matrix of logits: 92,544 words at 4k tokens in fp32 are 1.5 GB, twice."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORE = -100


def token_losses(hidden: Tensor, output: nn.Linear, labels: Tensor, chunk: int) -> Tensor:
    """Cross-entropy of every token, at least fp32 (tokens); 0 where the label is IGNORE.

    hidden: (tokens, hidden), labels: (tokens). Only `chunk` rows of logits exist at a time, in backward too, where
    they are computed again.
    """

    def rows(h: Tensor, y: Tensor) -> Tensor:
        logits = output(h)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")

    if not torch.is_grad_enabled() or len(labels) <= chunk:
        return torch.cat([rows(h, y) for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)])
    return torch.cat(
        [
            checkpoint(rows, h, y, use_reentrant=False)
            for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)
        ]
    )
