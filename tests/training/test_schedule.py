"""Learning rates over a run: shapes that hold for any length, and one settings value that chooses between them."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.config import load_config
from ilm_ray.training.schedule import cosine_lr, scheduled_lr, wsd_lr

RATIOS = st.floats(0.0, 0.4)


@given(steps=st.integers(2, 500), warmup=RATIOS, decay=st.floats(0.05, 0.6), final=st.floats(0.0, 1.0))
def test_wsd_rises_stays_and_falls_to_its_end(steps: int, warmup: float, decay: float, final: float) -> None:
    rates = [wsd_lr(step, steps, 3.0, warmup, decay, final) for step in range(steps)]
    first, last = max(1, round(steps * warmup)), round(steps * decay)
    assert all(a < b for a, b in itertools.pairwise(rates[:first]))
    assert all(rate == 3.0 for rate in rates[first : steps - last])
    falling = rates[max(first, steps - last) :]
    assert all(a >= b for a, b in itertools.pairwise(falling))
    if last and first < steps:
        assert rates[-1] == pytest.approx(3.0 * final)


@given(steps=st.integers(20, 500), more=st.integers(1, 500))
def test_a_longer_wsd_run_is_the_same_up_to_the_decay(steps: int, more: int) -> None:
    """Its use: with a warm-up of as many steps, a run goes on from any checkpoint before the decay."""
    shorter = [wsd_lr(step, steps, 1.0, 2 / steps, 0.2, 0.0) for step in range(steps - round(0.2 * steps))]
    longer = [wsd_lr(step, steps + more, 1.0, 2 / (steps + more), 0.2, 0.0) for step in range(len(shorter))]
    assert shorter == longer


def test_wsd_falls_with_the_square_root_of_the_progress() -> None:
    rates = [wsd_lr(step, 100, 1.0, 0.01, 0.16, 0.0) for step in range(84, 100)]
    for done, rate in enumerate(rates, 1):
        assert rate == pytest.approx(1 - math.sqrt(done / 16))


def test_the_setting_chooses_and_the_default_is_the_report_s() -> None:
    training = load_config("nano", None, []).training
    args = (training.warmup_ratio, training.final_lr_ratio)
    assert [scheduled_lr(training, s, 50, 0.1) for s in range(50)] == [cosine_lr(s, 50, 0.1, *args) for s in range(50)]
    wsd = load_config("nano", None, ["training.schedule=wsd", "training.decay_ratio=0.5"]).training
    assert scheduled_lr(wsd, 20, 50, 0.1) == 0.1 and scheduled_lr(wsd, 49, 50, 0.1, 0.25) == pytest.approx(0.025)
