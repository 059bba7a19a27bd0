"""Whose turn it is: exact proportions for any weights, and counts in closed form that agree with counting."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.data.tokens.turns import BLOCK, PERIOD, Turns

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


@settings(max_examples=60)
@given(WEIGHTS, st.integers(0, 5 * PERIOD))
def test_what_came_before_is_what_counting_finds(weights: list[float], block: int) -> None:
    turns = Turns(weights, seed=3)
    first = block * BLOCK + 77
    counted = turns.before(first)
    assert counted.sum() == first
    for number in range(first, first + 2 * BLOCK):
        assert turns.before(number).tolist() == counted.tolist()
        counted[turns.turn(number)] += 1


@settings(max_examples=100)
@given(WEIGHTS, st.integers(0, 10**9))
def test_any_million_sequences_hold_the_weights_to_a_few_sequences(weights: list[float], start: int) -> None:
    turns = Turns(weights, seed=0)
    drawn = turns.before(start + 10**6) - turns.before(start)
    exact = np.array(weights) / sum(weights) * 10**6
    assert np.abs(drawn - exact).max() < 20
    start -= start % BLOCK
    period = turns.before(start + BLOCK * PERIOD) - turns.before(start)
    assert np.abs(period - np.array(weights) / sum(weights) * BLOCK * PERIOD).max() < 2


@pytest.mark.parametrize("weights", [[0.5, 0.25, 0.25], [3, 1], [0.6, 0.25, 0.15], [1 / 3, 2 / 3], [0.0021, 0.9979]])
def test_shares_counted_one_by_one(weights: list[float]) -> None:
    """A third of 200 is no whole number, and 0.0021 is less than half a sequence a block."""
    turns, number = Turns(weights, seed=1), 50 * BLOCK
    drawn = Counter(turns.turn(i) for i in range(number))
    for part, weight in enumerate(weights):
        assert drawn[part] == pytest.approx(number * weight / sum(weights), abs=2)


def test_parts_are_mixed_and_another_seed_mixes_otherwise() -> None:
    orders = [[Turns([1, 1], seed).turn(i) for i in range(BLOCK)] for seed in (0, 1)]
    assert orders[0] != orders[1]
    for order in orders:
        changes = sum(a != b for a, b in itertools.pairwise(order))
        assert BLOCK / 3 < changes < 2 * BLOCK / 3
