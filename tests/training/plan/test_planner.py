"""The planner's layouts, memory and traffic against Layout itself, a count of what is sent, InternEvo's figures."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout, Share
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.training.parallel.parallelize import parallelize
from ilm_ray.training.plan.candidates import layouts
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.devices import RankGroup
from ilm_ray.training.plan.memory import peak_memory
from ilm_ray.training.plan.planner import predict, rank
from ilm_ray.training.plan.step import OptimizerStep, flops_per_token, pieces
from ilm_ray.training.plan.traffic import activation_traffic, state_traffic
from tests.processes import run_ranks
from tests.training.parallel.tracking import Tracker

SMALL = Shape(vocab_size=512, layers=4, hidden=128, kv_heads=4, queries_per_kv=2, head_dim=16, mlp_hidden=192)
SEVEN_B = Shape(vocab_size=92544, layers=32, hidden=4096, kv_heads=8, queries_per_kv=4, head_dim=128, mlp_hidden=14336)
# InternLM-7B, which InternEvo measured: no grouped queries.
FIRST_SEVEN_B = Shape(
    vocab_size=103168, layers=32, hidden=4096, kv_heads=32, queries_per_kv=1, head_dim=128, mlp_hidden=11008
)
STATES = ("parameters", "gradients", "optimizer")
RANGE = {
    "tp": (1, 2, 4, 8), "sequence_parallel": (False, True), "pp": (1, 2, 4, 8), "cp": (1, 2, 4, 8),
    "schedule": ("gpipe", "1f1b", "interleaved"), "virtual_stages": (1, 2, 4), "cp_kind": ("ulysses", "gather", "ring"),
    **{state: get_args(Share) for state in STATES}, "shard_group": (2, 4),
}  # fmt: skip


def _effect(layout: Layout) -> tuple[Any, ...]:
    """A layout without the settings that have no effect in it."""
    states: Any = tuple(getattr(layout, state) for state in STATES)
    group = layout.shard_group if "partial" in states else 0
    if layout.sharding_ranks == 1:
        states = "whole"
    return (
        layout.dp, layout.tp, layout.sequence_parallel, layout.pp, layout.cp, states, group,
        (layout.schedule, layout.virtual_stages) if layout.pp > 1 else None, layout.cp_kind if layout.cp > 1 else None,
    )  # fmt: skip


def test_layouts_are_all_that_layout_accepts_each_once() -> None:
    accepted = set()
    for values in itertools.product(*RANGE.values()):
        settings: dict[str, Any] = dict(zip(RANGE, values, strict=True))
        if 8 % (settings["tp"] * settings["pp"] * settings["cp"]):
            continue
        try:
            layout = Layout(**settings).on(8)
            layout.require_model(SMALL, SMALL.vocab_size)
        except UserError:
            continue
        accepted.add(_effect(layout))
    effects = [_effect(layout) for layout in layouts(SMALL, 8, (2, 4))]
    assert len(effects) == len(set(effects)) and set(effects) == accepted


@given(
    st.sampled_from([layout for layout in layouts(SMALL, 16, (2, 4)) if layout.sharding_ranks > 1]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_a_state_that_is_split_further_never_needs_more_memory(layout: Layout, at_once: int, fused: bool) -> None:
    step = OptimizerStep(256, 64, at_once)
    order = get_args(Share)
    memory = peak_memory(SMALL, layout, step, fused)
    for further in layouts(SMALL, 16, (2, 4)):
        same = {name: value for name, value in layout if name not in (*STATES, "shard_group")}
        if same.items() <= dict(further).items() and further.shard_group == layout.shard_group:
            pairs = [(order.index(getattr(layout, s)), order.index(getattr(further, s))) for s in STATES]
            if all(a <= b for a, b in pairs):
                other = peak_memory(SMALL, further, step, fused)
                assert other.weights <= memory.weights and other.optimizer <= memory.optimizer


CASES = [
    Layout(),
    Layout(parameters="replica"),
    Layout(parameters="replica", gradients="replica"),
    Layout(parameters="replica", gradients="replica", optimizer="replica"),
    Layout(gradients="replica"),
    Layout(tp=2, parameters="replica", gradients="replica", optimizer="replica"),
    Layout(tp=2, sequence_parallel=True, parameters="replica", gradients="replica", optimizer="replica"),
    Layout(cp=2),
    Layout(cp=2, cp_kind="gather"),
    *(
        Layout(recompute=how, **degrees)
        for how in ("selective", "full")
        for degrees in (
            {"cp": 2},
            {"cp": 2, "cp_kind": "gather"},
            {"tp": 2, "parameters": "replica", "gradients": "replica", "optimizer": "replica"},
            {
                "tp": 2,
                "sequence_parallel": True,
                "parameters": "replica",
                "gradients": "replica",
                "optimizer": "replica",
            },
        )
    ),
]


def _count(cases: list[Layout], step: OptimizerStep, folder: str) -> None:
    counted = []
    for layout in cases:
        model = parallelize(CausalLM(SMALL, step.loss_chunk), layout, torch.device("cpu"), step.precision)
        tokens = np.arange(step.context) % SMALL.vocab_size
        micros = step.micros(model.layout)
        windows = [(packed_from_arrays([tokens]), torch.from_numpy(tokens)) for _ in range(micros)]
        with Tracker(smallest=8 * step.context) as tracker:  # per-token figures of the loss are smaller
            model.backward_windows(windows, 1e-3)
        counted.append(tracker.carried)
    if dist.get_rank() == 0:
        (Path(folder) / "counted.json").write_text(json.dumps(counted))


@pytest.mark.ranks
def test_predicted_traffic_is_what_collectives_carry(tmp_path: Path) -> None:
    step = OptimizerStep(context=256, sequences=4, loss_chunk=128)
    run_ranks(_count, 2, CASES, step, str(tmp_path))
    for case, counted in zip(CASES, json.loads((tmp_path / "counted.json").read_text()), strict=True):
        layout, predicted = case.on(2), Counter[str]()
        held = pieces(SMALL, layout, 0)
        for collective in state_traffic(layout, step, held) + activation_traffic(SMALL, layout, step, held):
            predicted[collective.operation] += int(collective.size * collective.times)
        assert predicted == pytest.approx(counted, rel=0.03), case


@pytest.mark.parametrize("size", [2, 8, 64, 1024])
def test_a_ring_sends_what_its_steps_send(size: int) -> None:
    """Played out: in each of size - 1 steps every rank sends one of size parts on."""
    held = Layout(gradients="full").on(size)
    gather = state_traffic(held, OptimizerStep(4096, size), pieces(SEVEN_B, held, 0))[0]
    parts = sum(gather.size / size for _ in range(size - 1))
    assert gather.sent == pytest.approx(parts * gather.times)


def test_groups_in_a_node_use_its_links_and_share_its_adapters() -> None:
    h100 = DEVICES["h100"]
    assert RankGroup(8, 1).ring_rate(h100) == pytest.approx(0.8 * 450e9)
    across = RankGroup(128, 8)  # one member in each node, so eight such groups use a node's adapters
    assert 8 * across.ring_rate(h100) == pytest.approx(0.8 * h100.node_link)
    assert RankGroup(1024, 1).ring_rate(h100) == pytest.approx(0.8 * h100.node_link)
    assert (
        RankGroup(1024, 1).ring_latency(h100)
        > RankGroup(128, 8).ring_latency(h100)
        > RankGroup(8, 1).ring_latency(h100)
    )


def _speed(shape: Shape, kind: str, step: OptimizerStep, share: Share) -> float:
    layout = Layout(parameters=share, gradients=share, optimizer=share, shard_group=8, compile=True).on(1024)
    return predict(shape, layout, step, DEVICES[kind]).tokens_per_second


def test_groups_of_eight_beat_full_sharding_on_1024_devices_as_internevo_measured() -> None:
    ours = [_speed(SEVEN_B, "h100", OptimizerStep(4096, 1024), share) for share in ("partial", "full")]
    assert ours[0] > 1.1 * ours[1]
    # On their devices, in their test (A100, 4 x 100 Gb/s, four micro-batches of two sequences), 3,625 against 2,271
    # tokens/s a device were measured. They split optimizer states alone. For that the planner does not show what they
    # saw (docs/plans.md), so what is asserted is all three states split alike.
    theirs = [_speed(FIRST_SEVEN_B, "a100", OptimizerStep(2048, 8192, 2), share) for share in ("partial", "full")]
    assert theirs[0] > 1.1 * theirs[1]
    print(f"H100: {ours[0]:.0f} against {ours[1]:.0f}; A100: {theirs[0]:.0f} against {theirs[1]:.0f}")


@pytest.mark.parametrize(("sequences", "measured"), [(8192, 3625), (4096, 2817), (2048, 2346)])
def test_speed_on_1024_a100_is_within_an_eighth_of_what_internevo_measured(sequences: int, measured: int) -> None:
    """Its table of tokens/s a device at 16M, 8M and 4M tokens a step: optimizer states in groups of eight."""
    states: dict[str, Any] = {"parameters": "replica", "gradients": "replica", "optimizer": "partial"}
    layout = Layout(**states, shard_group=8, compile=True).on(1024)  # its fused kernels do what compiled blocks do
    plan = predict(FIRST_SEVEN_B, layout, OptimizerStep(2048, sequences, 2), DEVICES["a100"])
    assert plan.tokens_per_second == pytest.approx(measured, rel=0.125)


def test_operations_are_those_of_the_notes_on_7b() -> None:
    """50.6 GFLOP a token at 4k and 95.7 at 32k were worked out by hand."""
    assert flops_per_token(SEVEN_B, 4096, causal=False) / 1e9 == pytest.approx(50.6, abs=0.1)
    assert flops_per_token(SEVEN_B, 32768, causal=False) / 1e9 == pytest.approx(95.7, abs=0.3)


def test_a_ranking_is_sorted_fits_and_says_what_it_left_out() -> None:
    step = OptimizerStep(4096, 64)
    ranking = rank(SEVEN_B, 8, DEVICES["h100"], step)
    speeds = [plan.tokens_per_second for plan in ranking.plans]
    assert speeds and speeds == sorted(speeds, reverse=True)
    assert all(plan.memory.total <= DEVICES["h100"].usable_memory for plan in ranking.plans)
    assert ranking.left_out["does not fit into memory"] > 0
    assert all(plan.mfu_causal < plan.mfu < DEVICES["h100"].attainable * 1.2 for plan in ranking.plans)
