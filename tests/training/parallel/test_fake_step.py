"""The real step of pre-training at full size, traced with fake tensors: its memory and messages are as planned."""

import collections
from dataclasses import replace
from typing import Any

import pytest

from ilm_ray.config import load_config
from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.memory import peak_memory
from ilm_ray.training.plan.planner import ranks_of
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.step import OptimizerStep, pieces
from ilm_ray.training.plan.traffic import activation_traffic, state_traffic
from tests.training.parallel.fake_step import Case, Traced, trace_apart

WHOLE: dict[str, Any] = {"parameters": "replica", "gradients": "replica"}


def _shape(preset: str, layers: int | None = None) -> Shape:
    config = load_config(preset)
    shape = shape_of(config, config.tokenizer.vocab_size)
    return replace(shape, layers=layers) if layers else shape


def _case(shape: Shape, context: int, devices: int, micros: int, **settings: Any) -> Case:
    layout = Layout(**settings).on(devices)
    assert layout.dp is not None
    return shape, layout, OptimizerStep(context, layout.dp * micros)


def _stages(layout: Layout) -> list[int]:
    """The first rank of each stage of a pipeline that differs from the others in memory."""
    each = layout.replica_ranks // layout.pp * (layout.dp or 1)
    return [each * stage for stage in sorted({0, min(1, layout.pp - 1), layout.pp - 1})]


CASES = {
    "1_8b, 8 devices": lambda: _case(_shape("1_8b"), 4096, 8, 2),
    "7b, 32 devices, long": lambda: _case(_shape("7b"), 32_768, 32, 2, recompute="full"),
    "20b, 64 devices": lambda: _case(_shape("20b"), 4096, 64, 2, **WHOLE, recompute="selective"),
    "7b, tensors": lambda: _case(_shape("7b", 8), 4096, 8, 2, tp=4),
    "7b, keys gathered": lambda: _case(_shape("7b", 8), 32_768, 16, 2, cp=8, cp_kind="gather"),
    "1_8b, pipeline": lambda: _case(_shape("1_8b", 12), 4096, 8, 4, pp=2, gradients="replica"),
}
MORE = {
    "7b, 8 devices, one micro-batch": lambda: _case(_shape("7b"), 4096, 8, 1, parameters="replica"),
    "1_8b, selective": lambda: _case(_shape("1_8b"), 32_768, 64, 2, recompute="selective"),
    "20b, tensors and sequence": lambda: _case(_shape("20b", 12), 32_768, 16, 2, tp=4, sequence_parallel=True),
    "7b, sequence, full": lambda: _case(_shape("7b", 8), 4096, 8, 2, tp=2, sequence_parallel=True, recompute="full"),
    "7b, heads exchanged": lambda: _case(_shape("7b"), 32_768, 8, 2, cp=4),
    "7b, keys that travel": lambda: _case(_shape("7b", 8), 65_536, 16, 2, cp=16, cp_kind="ring"),
    "7b, groups": lambda: _case(
        _shape("7b"), 4096, 32, 2, parameters="partial", gradients="partial", optimizer="partial", shard_group=8
    ),
    "1_8b, gpipe": lambda: _case(_shape("1_8b"), 4096, 8, 4, pp=4, schedule="gpipe", gradients="replica"),
    "20b, interleaved": lambda: _case(
        _shape("20b", 16), 4096, 16, 8, pp=4, schedule="interleaved", virtual_stages=2, gradients="replica"
    ),
    "7b, pipeline and tensors": lambda: _case(_shape("7b", 8), 4096, 16, 4, pp=2, tp=2, gradients="replica"),
}  # fmt: skip


def _compare(names: dict[str, Any]) -> None:
    cases = [make() for make in names.values()]
    traced = trace_apart(cases, _stages)
    off = {}
    for name, (shape, layout, step), ranks in zip(names, cases, traced, strict=True):
        predicted, peak = peak_memory(shape, layout, step, fused=True).total, max(rank.peak for rank in ranks)
        off[name] = predicted / peak - 1
        print(f"{name:34} predicted {predicted / 2**30:6.2f} GiB, traced {peak / 2**30:6.2f}, {off[name]:+.1%}")
        for number, rank in zip(_stages(layout), ranks, strict=True):
            _compare_traffic(name, shape, layout, step, number * layout.pp // ranks_of(layout), rank)
    assert all(abs(share) < 0.05 for share in off.values()), off


def _compare_traffic(name: str, shape: Shape, layout: Layout, step: OptimizerStep, stage: int, traced: Traced) -> None:
    held = pieces(shape, layout, stage)
    predicted = collections.Counter[str]()
    for collective in [*state_traffic(layout, step, held), *activation_traffic(shape, layout, step, held)]:
        # Messages of a ring are within one operator, which a trace does not look into.
        if layout.cp_kind != "ring" or collective.kind != "context":
            predicted[collective.operation] += collective.size * collective.times
    if layout.pp > 1:  # predicted is a rank in the middle, which sends both ways
        sent = predicted.pop("send")
        ends = stage in (0, layout.pp - 1)
        assert sent / 2 <= traced.carried.pop("send") <= sent if ends else traced.carried.pop("send") == sent, name
    for operation in predicted.keys() | traced.carried.keys():
        assert traced.carried.get(operation, 0) == pytest.approx(predicted[operation], rel=2e-3), (name, operation)


@pytest.mark.process
@pytest.mark.timeout(300)
def test_memory_and_messages_of_real_steps_are_as_planned() -> None:
    _compare(CASES)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MORE)
def test_memory_and_messages_of_more_layouts_are_as_planned(name: str) -> None:
    _compare({name: MORE[name]})


def _before(events: list[str], first: str, then: str) -> bool:
    return events.index(first) < events.index(then)


@pytest.mark.process
@pytest.mark.parametrize("ahead", [1, 2])
def test_what_a_block_overlaps_with_is_under_way_before_it_begins(ahead: int) -> None:
    """Parameters of the next units are gathered before a block computes, gradients of the last ones reduced."""
    shape = Shape(vocab_size=512, layers=5, hidden=128, kv_heads=2, queries_per_kv=2, head_dim=32, mlp_hidden=256)
    [[traced]] = trace_apart([_case(shape, 512, 8, 1, prefetch=ahead)], lambda _: [0])
    blocks = [f"model.layers.{n}.attention_norm.weight" for n in range(shape.layers)]
    head, embedding = "model.norm.weight", "model.tok_embeddings.weight"
    turn = traced.events.index(f"backward {shape.layers - 1}")
    forward, backward = traced.events[:turn], traced.events[turn:]
    for number in range(shape.layers):
        for following in [*blocks, head][number + 1 : number + 1 + ahead]:
            assert _before(forward, f"gather {following}", f"forward {number}"), (following, number)
        for following in blocks[max(0, number - ahead) : number]:
            assert _before(traced.events[forward.index(f"forward {shape.layers - 1}") :],
                           f"gather {following}", f"backward {number}"), (following, number)  # fmt: skip
    # The head's gradients are under way while the last block goes backward, each block's while the next does.
    assert f"reduce {head}" in forward
    for number in range(1, shape.layers):
        assert _before(backward, f"reduce {blocks[number]}", f"backward {number - 1}")
    assert backward[-1] == f"reduce {embedding}"
    assert traced.events.count(f"gather {embedding}") == 1
