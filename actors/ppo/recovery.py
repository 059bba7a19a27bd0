"""Recovery: replaces lost ranks of a PPO run and gives up when that is in vain.

Groups that learn nothing (rollout, reference, reward, experience) are restarted alone, and the work begins again.
Policy and critic are restarted together and restored from the newest checkpoint, or start from the beginning, which
follows from the seed; so too where an iteration needs answers of weights that the policy no longer has.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.group import (
    PLACEMENT_DEADLINE_S,
    ActorGroup,
    GroupError,
    Role,
    lost_ranks,
    place_together,
    start_groups,
    stop_groups,
)
from actors.ppo.checkpoints import LEARNERS, PPOCheckpoints, State
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.run import metrics
from ilm_ray.run.journal import Journal

SAME_PLACE = 3  # losses in a row
WITHOUT_PROGRESS = 10  # losses since the run last came further than before
EVIDENCE_CHARS = 200  # Ray adds advice of many sentences to a death

Result = TypeVar("Result")


@dataclass(frozen=True)
class Loss:
    """Ranks were lost in an iteration: which groups, and the methods that they were in."""

    iteration: int
    places: frozenset[tuple[str, str]]


def why_hopeless(losses: Sequence[Loss]) -> str | None:
    """The reason why another attempt would be in vain, None where one is worth it. `losses`: all so far, in order."""
    last = losses[-SAME_PLACE:]
    if len(last) == SAME_PLACE and len(set(last)) == 1:
        return f"{SAME_PLACE} times in a row at this place"
    furthest = max(loss.iteration for loss in losses)
    since = len(losses) - next(i for i, loss in enumerate(losses) if loss.iteration == furthest)
    if since >= WITHOUT_PROGRESS:
        return f"{since} losses without getting beyond iteration {furthest}"
    return None


@dataclass
class Repair:
    """Lost ranks that are being replaced: for the journal."""

    since: float
    lost: list[str] = field(default_factory=list)
    evidence: str = ""


class Recovery:
    """Owns the groups and the state of a run; as a context it starts the groups, and stops them at the end.

    `state` is replaced as a whole when the learners are restored. `journal` gets an event for every repair.
    """

    def __init__(self, ppo: PPOConfig, roles: list[Role], checkpoints: PPOCheckpoints, journal: Journal) -> None:
        self.ppo, self.roles, self.checkpoints, self.journal = ppo, roles, checkpoints, journal
        self.groups: dict[str, ActorGroup] = {}
        self.state = State()
        self._placement: PlacementGroup | None = None  # of all groups, with ppo.colocate
        self._losses: list[Loss] = []
        self._repair: Repair | None = None
        self._in_doubt = False  # the learners' weights may not be those of `state`

    def __enter__(self) -> "Recovery":
        try:
            if self.ppo.colocate:
                self._placement = place_together(self.roles)
            self.survive(lambda: None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        stop_groups(self.groups)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def survive(self, work: Callable[..., Result], *args: object) -> Result:
        """`work(*args)` with all groups started. Lost ranks are replaced, and `work` begins again.

        Raises GroupError where a method raised, or where another attempt is in vain (`why_hopeless`).
        """
        while True:
            try:
                self._start_missing()
                return work(*args)
            except GroupError as error:
                self._stop_lost(error)

    @contextmanager
    def learners_change(self) -> Iterator[None]:
        """Around calls that change the learners' weights: after a loss in between, some ranks may have changed and
        others not, so the learners are restored."""
        self._in_doubt = True
        yield
        self._in_doubt = False

    def restore(self) -> None:
        """Go back to the newest checkpoint, or to the beginning."""
        with self.learners_change():
            self.state = self.checkpoints.restore(self.groups, self.journal)

    def _start_missing(self) -> None:
        missing = [role for role in self.roles if role.name not in self.groups]
        if not missing:
            return
        # A namespace of its own: two runs may both have a policy-0, and so may one before and after a loss.
        namespace = f"ppo-{self.checkpoints.folder.parent.name}-{time.time_ns()}"
        # A lost node may come back; until a run has begun, there is nothing to wait for.
        placement_s = self.ppo.deadline_s if self._losses else PLACEMENT_DEADLINE_S
        self.groups |= start_groups(missing, namespace, self.ppo.deadline_s, placement_s, self._placement)
        started = sorted(role.name for role in missing)
        if "policy" in started:
            self.restore()
        if self._repair is not None:
            self.journal.event(
                "recover",
                stage="ppo",
                iteration=self._losses[-1].iteration,
                lost=self._repair.lost,
                restarted=started,
                goes_on_at=self.state.iteration,
                seconds=round(time.monotonic() - self._repair.since, 2),
                why=self._repair.evidence,
            )
            self._repair = None

    def _stop_lost(self, error: GroupError) -> None:
        """Stop the groups that lost ranks, and both learners where the run cannot go on with their weights."""
        dead = lost_ranks(self.groups.values(), "passing")
        lost = {(rank.group, rank.rank): rank for rank in (*dead, *error.lost)}.values()
        if not lost:
            raise error
        self._losses.append(Loss(self.state.iteration, frozenset((rank.group, rank.method) for rank in lost)))
        if reason := why_hopeless(self._losses):
            raise GroupError(f"{error}; given up: {reason}", error.lost) from error
        for rank in lost:
            metrics.counter(metrics.FAILURES).inc(tags={"stage": "ppo", "category": rank.fate})
        self._repair = self._repair or Repair(time.monotonic())  # an earlier loss may not be made good yet
        self._repair.lost += [f"{rank.group}-{rank.rank} in {rank.method}(): {rank.fate}" for rank in lost]
        self._repair.evidence = str(error).splitlines()[-1][:EVIDENCE_CHARS]
        names = {rank.group for rank in lost}
        answers, self.state.ahead = self.state.ahead, None
        unrepeatable = answers is not None and answers.version < self.state.version
        if unrepeatable or self._in_doubt or not names.isdisjoint(LEARNERS):
            names.update(LEARNERS)
        for name in names & self.groups.keys():
            self.groups.pop(name).stop()
