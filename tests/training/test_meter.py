"""Figures of a log row that say where time goes."""

import time

import pytest
import torch

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Shape
from ilm_ray.training.measure.meter import Meter, pipeline_bubble

SHAPE = Shape(vocab_size=96, layers=4, hidden=64, kv_heads=4, queries_per_kv=2, head_dim=8, mlp_hidden=96)


def test_a_row_says_how_long_the_last_checkpoint_took() -> None:
    meter = Meter(SHAPE, 1, torch.device("cpu"))
    assert "checkpoint_seconds" not in meter.row(100, 16)
    for seconds in (0.1, 0.02):
        with meter.spent("checkpoint"):
            time.sleep(seconds)
    row = meter.row(100, 16)
    assert 0.02 <= row["checkpoint_seconds"] < 0.1 < row["checkpoint_share"] * row["window_seconds"]
    following = meter.row(100, 16)
    assert following["checkpoint_share"] == 0 and following["checkpoint_seconds"] == row["checkpoint_seconds"]


def test_a_row_has_the_memory_of_a_gpu_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(SHAPE, 1, torch.device("cpu"))
    assert not [name for name in meter.row(100, 16) if "gpu" in name]
    most = {"allocated": 7, "reserved": 9}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for kind in most:
        monkeypatch.setattr(torch.cuda, f"max_memory_{kind}", lambda kind=kind: most[kind])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: most.update(allocated=1, reserved=9))
    rows = [meter.row(100, 16) for _ in range(2)]
    assert [(row["gpu_peak_bytes"], row["gpu_reserved_bytes"]) for row in rows] == [(7, 9), (1, 9)]


@pytest.mark.parametrize(("pp", "micros"), [(1, 1), (1, 8), (2, 1), (2, 2), (4, 4), (4, 8), (8, 3)])
def test_the_bubble_is_that_of_a_pipeline_gone_through_by_hand(pp: int, micros: int) -> None:
    ended = [[0] * micros for _ in range(pp)]  # a micro-batch takes a rank one tick
    for rank in range(pp):
        for micro in range(micros):
            before = ended[rank - 1][micro] if rank else 0
            ended[rank][micro] = max(before, ended[rank][micro - 1] if micro else 0) + 1
    idle = 1 - micros / ended[-1][-1]
    layout = Layout(pp=pp, schedule="gpipe", gradients="replica")
    assert pipeline_bubble(layout, micros) == pytest.approx(idle)


def test_stages_of_an_interleaved_pipeline_make_the_bubble_smaller() -> None:
    layout = Layout(pp=4, schedule="interleaved", virtual_stages=2, gradients="replica")
    assert pipeline_bubble(layout, 8) == pytest.approx(3 / 19)
