"""Learning-rate schedule and the optimizer's groups."""

import math
from collections.abc import Iterable

from torch import nn, optim


def cosine_lr(step: int, steps: int, max_lr: float, warmup_ratio: float, final_ratio: float) -> float:
    """Linear warm-up, then cosine decay from `max_lr` to `final_ratio * max_lr` at the last step (report section 3)."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return max_lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return max_lr * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def adamw(
    named: Iterable[tuple[str, nn.Parameter]], betas: tuple[float, float], eps: float, weight_decay: float
) -> optim.AdamW:
    """AdamW without decay on norms and embeddings (not stated in the report; the usual choice).

    One fused pass over all parameters, except where norms lie on another mesh than matrices, which torch refuses.
    """
    decayed, free = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in named:
        (free if parameter.dim() < 2 or "tok_embeddings" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    meshes = {getattr(parameter, "device_mesh", None) for parameter in free + decayed}
    return optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True if len(meshes) == 1 else None)
