"""All layouts of a number of devices that `Layout` accepts."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout, Share
from ilm_ray.model.shape import Shape


def layouts(shape: Shape, devices: int, groups: Sequence[int]) -> Iterator[Layout]:
    """Every layout that `Layout` accepts for this model and number of devices, one of each kind that differs in effect.

    A partial state is split over `groups` ranks. Interleaved stages have the same number of layers, and one block is
    gathered ahead; `planner.plan_work` chooses `recompute`.
    """
    for tp, pp, cp in itertools.product(_divisors(devices), repeat=3):
        if devices % (tp * pp * cp):
            continue
        for sequence, kind, (schedule, virtual), states in itertools.product(
            (False, True) if tp > 1 else (False,),
            ("ulysses", "gather", "ring") if cp > 1 else ("ulysses",),
            _schedules(shape.layers, pp),
            _states(devices // (tp * pp), groups, pp),
        ):
            try:
                layout = Layout(
                    tp=tp, sequence_parallel=sequence, pp=pp, schedule=schedule, virtual_stages=virtual, cp=cp,
                    cp_kind=kind, **states,
                ).on(devices)  # fmt: skip
                layout.require_model(shape, shape.vocab_size)
            except UserError:
                continue
            yield layout


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _schedules(layers: int, pp: int) -> list[tuple[str, int]]:
    if pp == 1:
        return [("1f1b", 1)]
    interleaved = [("interleaved", v) for v in range(2, layers // pp + 1) if layers % (pp * v) == 0]
    return [("gpipe", 1), ("1f1b", 1), *interleaved]


def _states(ranks: int, groups: Sequence[int], pp: int) -> list[dict[str, Any]]:
    """Ways to share the three states out to `ranks`; `layouts` drops those that Layout refuses."""
    if ranks == 1:
        return [{"parameters": "replica", "gradients": "replica", "optimizer": "replica"}]
    choices: list[dict[str, Any]] = []
    groups = [group for group in groups if 1 < group < ranks and ranks % group == 0]
    for states in _shares():
        if pp == 1 or states["gradients"] == "replica":
            partial = "partial" in states.values()
            choices += [states | {"shard_group": group} for group in groups] if partial else [states]
    return choices


@functools.cache
def _shares() -> list[dict[str, str]]:
    """The shares of parameters, gradients and optimizer states that Layout accepts together."""
    choices = []
    for shares in itertools.product(get_args(Share), repeat=3):
        states = dict(zip(("parameters", "gradients", "optimizer"), shares, strict=True))
        with contextlib.suppress(UserError):
            Layout(**states)
            choices.append(states)
    return choices
