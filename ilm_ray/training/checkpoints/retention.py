"""Retention: pure functions that say which checkpoints stay, move and go, by the rules and the time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HOUR_S = 3600.0


@dataclass(frozen=True)
class StoreRules:
    """keep: the newest so many checkpoints stay (None: all); keep_every: beside them those of every so many steps stay
    for good; cold_after_hours: at this age they move to the cold store (None: there is none)."""

    keep: int | None = None
    keep_every: int | None = None
    cold_after_hours: float | None = None


@dataclass(frozen=True)
class Copy:
    """A whole checkpoint in a store. time: when it was taken, seconds since 1970."""

    step: int
    time: float
    cold: bool = False


@dataclass(frozen=True)
class RetentionPlan:
    """A partition of the copies into those that stay, move and go."""

    keep: tuple[Copy, ...]
    move: tuple[Copy, ...]  # from the store to the cold one
    delete: tuple[Copy, ...]


def store_plan(copies: Sequence[Copy], rules: StoreRules, now: float) -> RetentionPlan:
    """Plan the copies of both stores. The newest step is neither moved nor deleted by any rule.

    A step that lies in both, left by a move that was killed, is deleted where it is hot; of the newest the cold copy.
    """
    steps = sorted({copy.step for copy in copies})
    wanted = set(steps if rules.keep is None else steps[-max(1, rules.keep) :])
    if rules.keep_every is not None:
        wanted |= {step for step in steps if step % rules.keep_every == 0}
    twice = {copy.step for copy in copies if copy.cold} & {copy.step for copy in copies if not copy.cold}
    keep, move, delete = list[Copy](), list[Copy](), list[Copy]()
    for copy in copies:
        newest = copy.step == steps[-1]
        if copy.step not in wanted or (copy.step in twice and copy.cold == newest):
            delete.append(copy)
        elif copy.cold or newest or rules.cold_after_hours is None or now - copy.time < rules.cold_after_hours * HOUR_S:
            keep.append(copy)
        else:
            move.append(copy)
    return RetentionPlan(tuple(keep), tuple(move), tuple(delete))


def local_deletions(uploaded: Mapping[int, bool], keep: int, stored: bool, disk_full: bool) -> list[int]:
    """Steps whose local checkpoint goes, oldest first: all but the newest `keep`.

    uploaded: local steps, and whether the store has them. With a store (`stored`) one that it does not have stays too,
    unless the disk has no room for another checkpoint.
    """
    old = sorted(uploaded)[: -max(1, keep)]
    return [step for step in old if not stored or uploaded[step] or disk_full]
