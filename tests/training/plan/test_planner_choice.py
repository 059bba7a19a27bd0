"""Choosing a layout: against trying each one; elastic numbers of ranks: properties over 1 to 64 of them."""

import contextlib
import functools
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Block, Documents, Packed, Shape
from ilm_ray.training.plan.candidates import layouts
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.devices import GIB, USABLE_MEMORY, Device
from ilm_ray.training.plan.elastic import usable
from ilm_ray.training.plan.planner import TIE, Choice, Workload, best_plan, choose_layout, plan_work, predict
from ilm_ray.training.plan.step import OptimizerStep
from ilm_ray.training.plan.timing import BLOCK_OPERATORS

SHAPE = Shape(vocab_size=512, layers=4, hidden=256, kv_heads=4, queries_per_kv=2, head_dim=32, mlp_hidden=512)
WORKS = (Workload(OptimizerStep(256, 96, at_once=4), steps=100), Workload(OptimizerStep(1024, 24, at_once=1), steps=10))
CPU = replace(DEVICES["cpu"], overlap=True)  # slow beside its links, as a GPU is with a model of its size
# Too small for whole states and all activations, so that memory has a say.
KINDS = {"large": CPU, "small": replace(CPU, memory=int(0.045 * GIB))}
BASES = (
    None,
    Layout(),
    Layout(tp=2),
    Layout(tp=4, sequence_parallel=True, optimizer="partial", parameters="partial", gradients="partial", shard_group=4),
    Layout(pp=2, tp=2, gradients="replica"),
    Layout(pp=2, schedule="interleaved", virtual_stages=2, gradients="replica"),
    Layout(cp=2, tp=2),
    Layout(cp=8, cp_kind="gather", parameters="replica"),
    Layout(pp=4, gradients="replica"),
)


@functools.cache
def _choice(base: int, ranks: int, device: str = "large") -> Choice:
    return usable(BASES[base], ranks, SHAPE, KINDS[device], WORKS)


@pytest.mark.parametrize("device", list(KINDS.values()))
def test_the_layout_chosen_is_the_fastest_of_all_that_can_be_had(device: Device) -> None:
    seconds = []
    for layout, recompute in itertools.product(
        layouts(SHAPE, 4, (device.node_devices,)), ("none", "selective", "full")
    ):
        if layout.cp > 1:
            continue  # slices of fewer than 1,024 tokens are not looked at
        tried, total = layout.model_copy(update={"recompute": recompute}), 0.0
        for work in WORKS:
            sizes = [predict(SHAPE, tried, replace(work.step, at_once=n), device) for n in _micro_batches(tried, work)]
            fit = [plan.times.total for plan in sizes if plan.memory.total <= device.usable_memory]
            total += work.steps * min(fit, default=float("inf"))
        seconds.append(total)
    chosen = choose_layout(SHAPE, 4, device, WORKS)
    assert len(seconds) > 10 and chosen.seconds == pytest.approx(min(seconds), rel=TIE)
    assert all(plan.memory.total <= device.usable_memory for plan in chosen.plans)
    assert all(plan.layout == chosen.layout for plan in chosen.plans)


def _micro_batches(layout: Layout, work: Workload) -> list[int]:
    sizes = []
    for at_once in range(1, work.step.at_once + 1):
        with contextlib.suppress(UserError):
            layout.require_batch("batch", work.step.sequences, at_once)
            sizes.append(at_once)
    return sizes


def test_a_phase_that_needs_more_memory_makes_the_others_compute_again_too() -> None:
    layout = Layout().on(2)
    works = [Workload(OptimizerStep(256, 4)), Workload(OptimizerStep(8192, 4))]
    # Between what the long sequences need as they are and when all is computed again.
    again = layout.model_copy(update={"recompute": "full"})
    least, most = (predict(SHAPE, tried, works[1].step, CPU).memory.total for tried in (again, layout))
    device = replace(CPU, memory=int((least + most) / 2 / USABLE_MEMORY))
    alone = plan_work(SHAPE, layout, device, works[:1])
    both = plan_work(SHAPE, layout, device, works)
    assert alone.layout.recompute == "none" and both.layout.recompute != "none"
    assert {plan.layout for plan in both.plans} == {both.layout}


def _check(base: int, ranks: int, device: str) -> None:
    """The choice is possible, and the tokens of a step stay the same."""
    choice = _choice(base, ranks, device)
    layout = choice.layout
    assert choice.ranks == layout.dp * layout.replica_ranks <= ranks  # type: ignore[operator]
    assert Layout.model_validate(layout.model_dump()).on(choice.ranks) == layout
    layout.require_model(SHAPE, SHAPE.vocab_size)
    for work, plan in zip(WORKS, choice.plans, strict=True):
        layout.require_batch("batch", work.step.sequences, plan.step.at_once)
        assert plan.step == replace(work.step, at_once=plan.step.at_once)
        assert 1 <= plan.step.at_once <= work.step.at_once
        assert plan.memory.total <= KINDS[device].usable_memory
    assert choice.why.startswith(f"{ranks} workers: ") and "\n" not in choice.why
    assert (f", {ranks - choice.ranks} idle;" in choice.why) == (choice.ranks < ranks)


def _compare(base: int, ranks: int, device: str) -> None:
    """One more rank is not worse: not slower by more than what keeping the degrees that were asked for may cost."""
    fewer, more = _choice(base, ranks, device), _choice(base, ranks + 1, device)
    wanted = BASES[base]
    if wanted is None:
        assert more.seconds <= (1 + TIE) * fewer.seconds
    elif more.ranks < ranks + 1 or _degrees(more.layout) != _degrees(wanted):
        assert 0.9 * more.seconds <= fewer.seconds  # else all ranks are in what was asked for: taken as it is
    if wanted is not None and _degrees(fewer.layout) == _degrees(wanted) == _degrees(more.layout):
        assert more.ranks >= fewer.ranks


CASES = st.tuples(st.sampled_from(range(len(BASES))), st.integers(2, 63), st.sampled_from(sorted(KINDS)))


@pytest.mark.long
@settings(max_examples=25)
@given(CASES)
def test_any_number_of_ranks_gets_a_layout_that_can_be_had(case: tuple[int, int, str]) -> None:
    _check(*case)


@pytest.mark.long
@settings(max_examples=15)
@given(CASES)
def test_one_more_rank_is_never_worse(case: tuple[int, int, str]) -> None:
    _compare(*case)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_hold_for_every_number_of_ranks() -> None:
    for base, device in itertools.product(range(len(BASES)), KINDS):
        for ranks in range(2, 65):
            _check(base, ranks, device)
            if ranks < 64:
                _compare(base, ranks, device)


def _degrees(layout: Layout) -> tuple[int, int, int]:
    return layout.pp, layout.cp, layout.tp


def test_what_fits_all_ranks_is_taken_as_it_was_asked_for() -> None:
    for number, base in enumerate(BASES):
        if base is None:
            continue
        chosen = _choice(number, (8 if base.pp == 1 else 2) * base.replica_ranks).layout
        assert chosen.model_dump(exclude={"dp"}) == base.model_dump(exclude={"dp"})


def test_thirteen_workers_are_twelve_and_the_line_says_so() -> None:
    works = [Workload(OptimizerStep(256, 96, at_once=4))]
    why = usable(Layout(tp=2), 13, SHAPE, CPU, works).why
    assert why.startswith("13 workers: dp6 tp2, full/full/full, 1 idle; 96 sequences a step: 16 each; predicted ")


def test_degrees_that_would_waste_many_ranks_are_given_up_and_the_line_says_so() -> None:
    choice = _choice(BASES.index(Layout(pp=2, tp=2, gradients="replica")), 7)
    assert choice.ranks == 6 and "pp2 x tp2 as configured would leave 3 idle" in choice.why
    choice = _choice(BASES.index(Layout(pp=4, gradients="replica")), 3)
    assert "pp4 as configured has no place in them" in choice.why


def test_partial_groups_shrink_with_the_ranks() -> None:
    base = Layout(parameters="partial", gradients="partial", optimizer="partial", shard_group=8)
    works = [Workload(OptimizerStep(256, 96 * 7))]
    chosen = {n: usable(base, n, SHAPE, CPU, works).layout for n in (16, 12, 7)}
    assert [chosen[n].shard_group for n in (16, 12)] == [8, 6]
    assert chosen[7].optimizer == "full"  # 7 ranks have no groups


def test_what_fits_nowhere_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"no layout of 4 cpu can do this \(\d+ does not fit into memory\)"):
        usable(Layout(), 4, SHAPE, replace(CPU, memory=1_000_000), WORKS)


H100 = DEVICES["h100"]
HALF_B = Shape(vocab_size=32_768, layers=24, hidden=1024, kv_heads=4, queries_per_kv=2, head_dim=128, mlp_hidden=4096)


def test_blocks_are_compiled_where_that_saves_more_than_it_takes() -> None:
    """One step is over before torch.compile is; a million are not. A device measured without it has no say."""
    step = OptimizerStep(4096, 64, at_once=8)
    few, many = (choose_layout(HALF_B, 8, H100, [Workload(step, steps)]) for steps in (1, 1_000_000))
    assert not few.layout.compile and many.layout.compile
    assert "without compile" in many.why and "without compile" not in few.why
    measured = replace(H100, compiled=False)
    assert not choose_layout(HALF_B, 8, measured, [Workload(step, 1_000_000)]).layout.compile


def test_the_host_sets_the_pace_of_small_micro_batches() -> None:
    """Twice the rows take no longer while the host launches, and twice as long once the device has enough to do."""

    def seconds(rows: int) -> float:
        layout = Layout(parameters="replica", gradients="replica", optimizer="replica").on(1)
        return predict(HALF_B, layout, OptimizerStep(rows, 1), H100).times.compute

    def of_blocks(rows: int) -> float:
        return seconds(rows) - 6 * HALF_B.hidden * HALF_B.vocab_size * rows / (H100.peak("bf16") * H100.attainable)

    assert of_blocks(512) == pytest.approx(of_blocks(256))
    assert of_blocks(131_072) > 2 * of_blocks(65_536)


class _Counts(TorchDispatchMode):
    """Counts the operators that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_block_dispatches_about_as_many_operators_as_are_counted_for_it() -> None:
    block, documents = Block(SHAPE), Documents.of(Packed.of([[0] * 16]), SHAPE, torch.float32)
    rows = torch.randn(16, SHAPE.hidden, requires_grad=True)
    with _Counts() as counts:
        block(rows, documents).sum().backward()
    assert pytest.approx(counts.count, rel=0.3) == BLOCK_OPERATORS


def test_larger_micro_batches_are_taken_where_they_are_as_fast() -> None:
    work = Workload(OptimizerStep(4096, 64, at_once=8), 1000)
    layout = Layout(compile=True).on(8)
    plan = best_plan(HALF_B, layout, work, H100)
    speeds = {n: predict(HALF_B, layout, work.step_of(layout, n), H100).tokens_per_second for n in (1, 2, 4, 8)}
    alike = [n for n, speed in speeds.items() if speed >= (1 - TIE) * max(speeds.values())]
    assert plan.step.at_once == max(alike)


def test_a_batch_that_is_dealt_out_by_tokens_has_a_share_for_any_number_of_replicas() -> None:
    work = Workload(OptimizerStep(1024, 10, at_once=4), least=2, dealt=True)
    for ranks in range(1, 20):
        choice = choose_layout(SHAPE, ranks, CPU, [work])
        (plan,) = choice.plans
        assert choice.ranks == ranks and choice.layout.pp == 1
        assert 2 <= plan.step.at_once <= 4
        assert 10 <= plan.step.sequences < 10 + ranks and plan.step.sequences % (choice.layout.dp or 1) == 0


def test_no_rank_is_left_idle_for_a_batch_that_is_dealt_out() -> None:
    """Eighteen sequences on eight ranks are nine quarters each, for they are cut into conversations."""
    work = Workload(OptimizerStep(8192, 18, at_once=4), dealt=True)
    seven, eight = (choose_layout(HALF_B, ranks, H100, [work]) for ranks in (7, 8))
    assert eight.seconds < seven.seconds


def test_a_scalar_head_has_no_logits() -> None:
    """A reward model of a large vocabulary needs the embedding's bytes less, and the logits' at the loss."""
    layout, step = Layout().on(1), OptimizerStep(1024, 1)
    whole, scalar = (predict(HALF_B, layout, replace(step, scalar=scalar), H100) for scalar in (False, True))
    head = HALF_B.vocab_size * HALF_B.hidden
    assert whole.memory.weights - scalar.memory.weights == 4 * (head - HALF_B.hidden)
    assert whole.memory.optimizer - scalar.memory.optimizer == 8 * (head - HALF_B.hidden)
    assert whole.memory.total > scalar.memory.total and whole.times.compute > scalar.times.compute
