"""The learning rate of a step: pure functions of its number."""

import math

from ilm_ray.config.training import TrainingConfig


def scheduled_lr(
    training: TrainingConfig, step: int, steps: int, max_lr: float, final_ratio: float | None = None
) -> float:
    """The rate of step `step` of `steps` by `training.schedule`; `final_ratio` None: `training.final_lr_ratio`."""
    final = training.final_lr_ratio if final_ratio is None else final_ratio
    if training.schedule == "wsd":
        return wsd_lr(step, steps, max_lr, training.warmup_ratio, training.decay_ratio, final)
    return cosine_lr(step, steps, max_lr, training.warmup_ratio, final)


def cosine_lr(step: int, steps: int, max_lr: float, warmup_ratio: float, final_ratio: float) -> float:
    """Linear warm-up, then cosine decay from `max_lr` to `final_ratio * max_lr` at the last step (report section 3)."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return max_lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return max_lr * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def wsd_lr(step: int, steps: int, max_lr: float, warmup_ratio: float, decay_ratio: float, final_ratio: float) -> float:
    """Linear warm-up, `max_lr`, then decay to `final_ratio * max_lr` over the last `decay_ratio` of the steps.

    Warmup-stable-decay (MiniCPM, arXiv 2404.06395): a run can be made longer from any step before the decay. It falls
    with the square root of the progress, the best of those compared in arXiv 2405.18392.
    """
    warmup, decay = max(1, round(steps * warmup_ratio)), round(steps * decay_ratio)
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if step < steps - decay:
        return max_lr
    progress = min((step - (steps - decay) + 1) / decay, 1.0)
    return max_lr * (final_ratio + (1 - final_ratio) * (1 - math.sqrt(progress)))
