"""Calibration: the fit against lines that are known, the file, and what a measured device changes in a plan."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Shape
from ilm_ray.training.plan.calibrate import fit
from ilm_ray.training.plan.calibration import read_calibration, write_calibration
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.devices import Link, RankGroup
from ilm_ray.training.plan.planner import predict
from ilm_ray.training.plan.step import OptimizerStep
from ilm_ray.training.plan.traffic import Collective, hops, sent

SHAPE = Shape(vocab_size=256, layers=2, hidden=64, kv_heads=2, queries_per_kv=2, head_dim=16, mlp_hidden=128)
CPU = DEVICES["cpu"]


@given(st.floats(0, 1e-2), st.floats(1e-12, 1e-8))
def test_a_fit_finds_the_line_that_points_lie_on(a: float, b: float) -> None:
    points = [(float(x), y) for x in (1, 3, 7) for y in (1e5, 1e6, 1e7)]
    factors = fit([(x, y, a * x + b * y) for x, y in points])
    for x, y in points:
        assert factors[0] * x + factors[1] * y == pytest.approx(a * x + b * y, rel=1e-6)


@given(st.lists(st.tuples(st.floats(1, 10), st.floats(1, 10), st.floats(0.1, 10)), min_size=2, max_size=6))
def test_a_fit_is_never_negative_and_as_near_as_any_such(samples: list[tuple[float, float, float]]) -> None:
    def error(a: float, b: float) -> float:
        return sum(((a * x + b * y) / seconds - 1) ** 2 for x, y, seconds in samples)

    factors = fit(samples)
    assert min(factors) >= 0
    grid = [n / 10 for n in range(31)]
    assert error(*factors) <= min(error(a, b) for a in grid for b in grid) + 1e-9


def test_a_measured_link_is_what_a_collective_takes() -> None:
    device = replace(CPU, links={"gather": Link(hop=1e-3, rate=1e8)})
    gather = Collective("parameters", "gather", RankGroup(4, 1), 4e6, 5, "forward", 1)
    assert gather.seconds(device) == pytest.approx(5 * (3 * 1e-3 + 3e6 / 1e8))
    across = replace(gather, group=RankGroup(4, 8))  # leaves the node, where nothing was measured
    assert across.seconds(device) == across.seconds(CPU)


def test_bytes_and_hops_are_those_of_a_ring_played_out() -> None:
    for ranks in (2, 4, 8):
        steps = [1 / ranks for _ in range(ranks - 1)]  # each passes one of `ranks` parts on
        assert sent("gather", ranks, 1.0) == sent("scatter", ranks, 1.0) == pytest.approx(sum(steps))
        assert sent("all_reduce", ranks, 1.0) == pytest.approx(2 * sum(steps))
        assert (hops("gather", ranks), hops("all_reduce", ranks)) == (len(steps), 2 * len(steps))


def test_ranks_that_share_cores_lose_speed_and_no_time_to_a_bubble() -> None:
    step = OptimizerStep(256, 8, precision="fp32")
    layout = Layout(pp=4, gradients="replica").on(4)
    alone, shared = (predict(SHAPE, layout, step, replace(CPU, ranks_a_core=n)).times for n in (1.0, 2.0))
    assert shared.compute == pytest.approx(2 * alone.compute)
    assert alone.bubble > 0 and shared.bubble == 0


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for text in ("", "[]", "{}", json.dumps({"about": {}, "device": {"name": "cpu"}})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"calibration\.json is no calibration"):
            read_calibration(path)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    device = replace(CPU, name="measured cpu", links={"send": Link(1e-4, 1e9)}, attainable_head=0.3)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"about": {"ranks": 2}, "device": asdict(device)}))
    assert read_calibration(path) == (device, {"ranks": 2})


@pytest.mark.slow
def test_this_machine_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, SHAPE, "fp32", 2, CPU)
    device, about = read_calibration(path)
    assert about["ranks"] == 2 and about["backend"] == "gloo"
    assert device.attainable > 0 and device.memory_rate > 0 and device.memory > 2**28
    assert set(device.links) == {"gather", "scatter", "all_reduce", "all_to_all", "send"}
    assert all(link.rate > 1e4 for link in device.links.values())
    plan = predict(SHAPE, Layout().on(2), OptimizerStep(64, 4, precision="fp32"), device)
    assert plan.times.total > 0
