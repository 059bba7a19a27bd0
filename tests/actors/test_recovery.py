"""When a run that loses ranks is given up."""

from hypothesis import given
from hypothesis import strategies as st

from actors.ppo.recovery import SAME_PLACE, WITHOUT_PROGRESS, Loss, why_hopeless

PLACES = [frozenset({("policy", "train")}), frozenset({("reward", "score")})]


def test_the_same_place_ends_a_run_and_two_places_in_turn_do_not_until_too_often() -> None:
    same = [Loss(7, PLACES[0])] * SAME_PLACE
    assert why_hopeless(same[:-1]) is None
    assert why_hopeless(same) == "3 times in a row at this place"
    assert why_hopeless([*same[:-1], Loss(7, PLACES[1]), *same[:-1]]) is None
    turns = [Loss(7, PLACES[i % 2]) for i in range(WITHOUT_PROGRESS)]
    assert why_hopeless(turns[:-1]) is None
    assert why_hopeless(turns) == "10 losses without getting beyond iteration 7"


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_run_that_comes_further_each_time_is_never_given_up_and_any_other_ends(steps: list[int]) -> None:
    forward = [Loss(i, PLACES[0]) for i in range(len(steps) + 1)]
    assert why_hopeless(forward) is None
    # However it falls below an iteration that it has reached once: a bounded number of attempts.
    stuck = [Loss(9, PLACES[0]), *(Loss(step, PLACES[step % 2]) for step in steps)]
    if len(stuck) >= WITHOUT_PROGRESS:
        assert why_hopeless(stuck) is not None
