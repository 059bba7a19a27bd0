"""A layout for as many ranks as there happen to be: Ray may give 13 workers where 16 were asked for.

Tokens a step stay the same, so a run goes on as if nothing had happened; ranks that do not fit in stay idle.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.memory import peak_memory
from ilm_ray.training.plan.planner import (
    Choice,
    NoPlan,
    Workload,
    candidates,
    choose_layout,
    plan_work,
    worth_trying,
    written,
)
from ilm_ray.training.plan.step import flops_per_token

# Other degrees than those that were asked for must be predicted to save this share of the time: a prediction is not
# much better than that, and a person has reasons of their own.
WORTH_ANOTHER_LAYOUT = 0.1


def usable(base: Layout | None, ranks: int, shape: Shape, device: Device, works: Sequence[Workload]) -> Choice:
    """Choose a layout for `ranks` ranks, or for as many of them as can be used, and say why. Pure.

    base: the layout asked for, `dp` left out of account; None: any. Its degrees are kept with the largest dp that
    shares every batch out evenly and fits into memory. If that leaves ranks idle, other layouts of up to `ranks` ranks
    are looked at too, and taken if `WORTH_ANOTHER_LAYOUT`. Raises UserError where no number of ranks will do.
    """
    kept = _kept(base, ranks, shape, device, works) if base is not None else None
    if kept is not None and kept.ranks == ranks:
        return replace(kept, why=_why(kept, ranks, works))
    other = _fastest(ranks, shape, device, works, kept)
    if kept is None and other is None:
        choose_layout(shape, ranks, device, works)  # says what is wrong with each
        raise AssertionError("a layout of all ranks is one of those that were tried")
    if kept is None or (other is not None and other.seconds < (1 - WORTH_ANOTHER_LAYOUT) * kept.seconds):
        assert other is not None
        return replace(other, why=_why(other, ranks, works) + _instead(base, kept, other, ranks))
    return replace(kept, why=_why(kept, ranks, works))


def _kept(base: Layout, ranks: int, shape: Shape, device: Device, works: Sequence[Workload]) -> Choice | None:
    """`base` with the largest dp that is possible."""
    for dp in range(ranks // base.replica_ranks, 0, -1):
        try:
            layout = with_dp(base, dp)
            layout.require_model(shape, shape.vocab_size)
            return plan_work(shape, layout, device, works)
        except (NoPlan, UserError):
            continue
    return None


def with_dp(base: Layout, dp: int) -> Layout:
    """`base` with another dp. Groups of a partial state get smaller where they must, or become all ranks."""
    states = ("parameters", "gradients", "optimizer")
    sharing = dp * base.cp
    group = next((g for g in range(min(base.shard_group, sharing - 1), 1, -1) if sharing % g == 0), None)
    changed: dict[str, object] = {"dp": None}
    if "partial" in (base.parameters, base.gradients, base.optimizer):
        changed |= {"shard_group": group} if group else {s: "full" for s in states if getattr(base, s) == "partial"}
    return Layout.model_validate(base.model_dump() | changed).on(dp * base.replica_ranks)


def _fastest(ranks: int, shape: Shape, device: Device, works: Sequence[Workload], kept: Choice | None) -> Choice | None:
    """The fastest layout of up to `ranks` ranks; those that cannot beat `kept` need not be looked at."""
    best = None
    for number, least in _least_seconds(ranks, shape, device, works):
        limit = min((c.seconds for c in (best, kept) if c is not None), default=float("inf"))
        if least >= limit:
            break  # fewer ranks take longer still
        try:
            choice = choose_layout(shape, number, device, works)
        except UserError:
            continue
        if best is None or choice.seconds < best.seconds:
            best = choice
    return best


def usable_each(ranks: int, shape: Shape, device: Device, works: Sequence[Workload]) -> list[Choice]:
    """For each of `works` the fastest layout, all on the same number of up to `ranks` ranks, and say why. Pure.

    Raises UserError where no number of ranks will do.
    """
    best, best_seconds = list[Choice](), float("inf")
    for number, least in _least_seconds(ranks, shape, device, works):
        if least >= best_seconds:
            break  # fewer ranks take longer still
        try:
            choices = [choose_layout(shape, number, device, [work]) for work in works]
        except UserError:
            continue
        seconds = sum(choice.seconds for choice in choices)
        if seconds < best_seconds:
            best, best_seconds = choices, seconds
    if not best:
        choose_layout(shape, ranks, device, works)  # says what is wrong with each
        raise AssertionError("a layout of all works is one of those that were tried")
    return [replace(choice, why=_why(choice, ranks, [work])) for choice, work in zip(best, works, strict=True)]


def _least_seconds(ranks: int, shape: Shape, device: Device, works: Sequence[Workload]) -> Iterator[tuple[int, float]]:
    """(number of ranks, seconds that `works` take at least, computing alone), from `ranks` down."""
    # Norms are in the count and not in the predicted time.
    alone = sum(
        0.99 * w.steps * w.step.tokens * flops_per_token(shape, w.step.context, causal=True, scalar=w.step.scalar)
        / device.peak(w.step.precision)
        for w in works
    )  # fmt: skip
    share = max(device.attainable, device.attainable_head or 0.0)
    for number in range(ranks, 0, -1):
        yield number, alone / share / number


def has_room(shape: Shape, ranks: int, device: Device, works: Sequence[Workload]) -> bool:
    """Will `usable_each` have layouts for `ranks` ranks, or for fewer? Nothing is predicted but memory.

    Looks at the largest number of ranks that can share the batches out: with fewer every rank holds more.
    """
    for number in range(ranks, 0, -1):
        fits = [_fits_on(shape, number, device, work) for work in works]
        if None not in fits:
            return all(fits)
    return False


def _fits_on(shape: Shape, ranks: int, device: Device, work: Workload) -> bool | None:
    """Whether the smallest micro-batch fits into memory in any layout; None where no layout can share the batch out.

    Those that need least are looked at first.
    """
    likely = (Layout(cp=cp, cp_kind="gather") for cp in (1, 2, 4, 8) if ranks % cp == 0)
    first = (layout.on(ranks) for layout in likely if worth_trying(layout, [work]))
    shared = False
    for layout in itertools.chain(first, candidates(shape, ranks, device, [work])):
        thrifty, step = layout.model_copy(update={"recompute": "full"}), work.step_of(layout, work.least)
        try:
            layout.require_model(shape, shape.vocab_size)
            layout.require_batch("batch", step.sequences, step.at_once)
        except UserError:
            continue
        if peak_memory(shape, thrifty, step, device.fused).total <= device.usable_memory:
            return True
        shared = True
    return False if shared else None


def _why(choice: Choice, ranks: int, works: Sequence[Workload]) -> str:
    """ "13 workers: dp6 tp2, 1 idle; 96 sequences a step: 16 each; predicted ..."."""
    dp = choice.layout.dp
    assert dp is not None
    idle = f", {ranks - choice.ranks} idle" if ranks > choice.ranks else ""
    batches = list(dict.fromkeys(work.step.sequences for work in works))
    shares = ", ".join(str(batch // dp) for batch in batches)
    return (
        f"{ranks} workers: {written(choice.layout)}{idle}; "
        f"{', '.join(map(str, batches))} sequences a step: {shares} each; {choice.why}"
    )


def _instead(base: Layout | None, kept: Choice | None, other: Choice, ranks: int) -> str:
    if base is None:
        return ""
    degrees = " x ".join(f"{name}{n}" for name in ("pp", "cp", "tp") if (n := getattr(base, name)) > 1) or "dp alone"
    if kept is None:
        return f"; {degrees} as configured has no place in them"
    return (
        f"; {degrees} as configured would leave {ranks - kept.ranks} idle and is predicted to be "
        f"{kept.seconds / other.seconds - 1:.0%} slower"
    )
