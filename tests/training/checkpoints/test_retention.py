"""Retention of checkpoints: rules by example, and properties that hold for any stores, rules and times."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.training.checkpoints.retention import Copy, StoreRules, local_deletions, store_plan

HOUR = 3600.0
copies = st.lists(
    st.builds(Copy, st.integers(1, 60), st.floats(0, 1e6), st.booleans()),
    unique_by=lambda copy: (copy.step, copy.cold),
    max_size=20,
)
rules = st.builds(
    StoreRules,
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 20),
    st.none() | st.floats(0.1, 300),
)
now = st.floats(1e6, 2e6)


def steps(chosen: tuple[Copy, ...]) -> list[int]:
    return sorted(copy.step for copy in chosen)


def test_newest_and_every_so_many_steps_stay_and_the_old_ones_move() -> None:
    there = [Copy(step, time=step * HOUR) for step in range(10, 101, 10)]
    plan = store_plan(there, StoreRules(keep=3, keep_every=40, cold_after_hours=25), now=101 * HOUR)
    assert steps(plan.keep) == [80, 90, 100] and steps(plan.move) == [40]
    assert steps(plan.delete) == [10, 20, 30, 50, 60, 70]
    assert steps(store_plan(there, StoreRules(), 1e9).keep) == list(range(10, 101, 10))


def test_the_rest_of_a_killed_move_goes() -> None:
    there = [Copy(1, 0), Copy(1, 0, cold=True), Copy(2, 0), Copy(2, 0, cold=True)]
    plan = store_plan(there, StoreRules(), 0)
    assert set(plan.delete) == {Copy(1, 0), Copy(2, 0, cold=True)}


@given(copies, rules, now)
def test_a_plan_is_a_partition_that_spares_the_newest_and_has_nothing_to_add(
    there: list[Copy], rule: StoreRules, time: float
) -> None:
    plan = store_plan(there, rule, time)
    assert sorted(plan.keep + plan.move + plan.delete, key=repr) == sorted(there, key=repr)
    newest = max((copy.step for copy in there), default=None)
    assert newest is None or newest in steps(plan.keep)
    left = {copy.step for copy in plan.keep + plan.move}
    wanted = sorted({copy.step for copy in there})
    if rule.keep is not None:
        wanted = sorted({*wanted[-rule.keep :], *(s for s in wanted if rule.keep_every and s % rule.keep_every == 0)})
    assert sorted(left) == wanted  # no step is lost that the rules keep, and none stays that they do not
    assert len(left) == len(plan.keep + plan.move)  # and each lies in one place
    for copy in plan.move:
        assert rule.cold_after_hours is not None and time - copy.time >= rule.cold_after_hours * HOUR and not copy.cold
    after = [*plan.keep, *(replace(copy, cold=True) for copy in plan.move)]
    again = store_plan(after, rule, time)
    assert not again.move and not again.delete


@given(st.dictionaries(st.integers(1, 60), st.booleans()), st.integers(1, 5), st.booleans(), st.booleans())
def test_local_ones_go_only_when_they_are_old_and_safe(
    uploaded: dict[int, bool], keep: int, stored: bool, disk_full: bool
) -> None:
    gone = local_deletions(uploaded, keep, stored, disk_full)
    assert gone == sorted(gone) and not set(gone) & set(sorted(uploaded)[-keep:])
    if stored and not disk_full:
        assert all(uploaded[step] for step in gone)
    else:
        assert len(gone) == max(0, len(uploaded) - keep)
