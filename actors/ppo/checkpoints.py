"""Checkpoints of a PPO run: both learners, the counters of `State`, the answers to the next iteration's prompts.

A checkpoint is `<folder>/checkpoints/iteration-<n>`; its record COMMIT is written last, and a folder without it does
not count (`ilm_ray/alignment/ppo/checkpoint_record.py`). `<folder>/candidates` has the policies that validated best.
"""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from actors.group import ActorGroup, Call, Figures, collect
from actors.ppo.log import keep_before
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.checkpoint_record import committed, damage, read_record, set_aside, write_record
from ilm_ray.run.journal import Journal

AHEAD = "flight.parquet"  # of a checkpoint: the answers of `State.ahead`
KEEP_CHECKPOINTS = 2
LEARNERS = ("policy", "critic")  # all that there are have the weights of one `State`, or are restored together


@dataclass(frozen=True)
class Answers:
    """Answers to the prompts of an iteration, or the call that will give them; version: of the weights that sample."""

    call: Call
    version: int
    # Seconds that earlier calls took: of engines, and of rewards; for the iteration's row.
    rolled: float = 0.0
    judged: float = 0.0


@dataclass
class State:
    """Position of a run. All randomness follows from the seed and these counters."""

    iteration: int = 0  # iterations done, warm-up included
    version: int = 0  # policy updates done
    cursor: int = 0  # pre-training sequences consumed
    best: int | None = None  # iterations done when the policy had its best validation reward
    best_reward: float | None = None
    ahead: Answers | None = None  # to the prompts of iteration `iteration`, asked for during the one before
    unlogged: Figures | None = None  # row of the last iteration, until it is validated and logged; in no checkpoint


class PPOCheckpoints:
    """Writes, finds and prunes the checkpoints and candidates of the run in `folder`; the newest two stay."""

    def __init__(self, folder: Path, deadline_s: float) -> None:
        self.folder, self.deadline_s = folder, deadline_s

    def save(self, groups: dict[str, ActorGroup], state: State) -> None:
        """Checkpoint of `state`. Raises GroupError where a learner does not write its part."""
        target = self._path(state.iteration)
        if target.exists():  # left by a run that was killed while saving
            shutil.rmtree(target)
        target.mkdir(parents=True)
        collect([groups[name].start("save", target / name, "state") for name in _learners(groups)], self.deadline_s)
        if state.ahead is not None:  # waited for here, not at the beginning of the next iteration
            collect([groups["experience"].start("keep", target / AHEAD, *state.ahead.call.payloads)], self.deadline_s)
        counters = {name: value for name, value in vars(state).items() if name not in ("ahead", "unlogged")}
        write_record(target, counters)
        for old in self._committed()[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
        # The older checkpoint may name an older candidate.
        kept = {self.candidate(saved.best) for saved in self._readable() if saved.best is not None}
        for candidate in (self.folder / "candidates").glob("iteration-*"):
            if candidate not in kept:
                shutil.rmtree(candidate)

    def restore(self, groups: dict[str, ActorGroup], journal: Journal) -> State:
        """Put new learners into the newest whole checkpoint's state; without one they start from the beginning.

        A damaged checkpoint is set aside, which the journal says. Cuts from logs and black box the iterations that will
        be written again. Raises GroupError where a group does not answer.
        """
        newest = self._newest_whole(journal)
        state = _load(newest) if newest else State()
        blackbox.drop_from(self.folder, state.iteration)
        for name in ("metrics.jsonl", "samples.jsonl"):
            keep_before(self.folder / name, state.iteration)
        if newest is not None:
            calls = [groups[name].start("restore", newest / name, "state") for name in _learners(groups)]
            collect(calls, self.deadline_s)
            collect([groups["policy"].start("set_version", state.version)], self.deadline_s)
            if (newest / AHEAD).exists():
                call = groups["experience"].start("recall", newest / AHEAD)
                state.ahead = Answers(call, collect([call], self.deadline_s)[0][0]["version"])
        return state

    def has(self, iteration: int) -> bool:
        """Whether there is a complete checkpoint of `iteration`."""
        return self._path(iteration) in self._committed()

    def candidate(self, iteration: int) -> Path:
        """Folder for the policy of `iteration`, if it validates best."""
        return self.folder / "candidates" / f"iteration-{iteration:06d}"

    def _path(self, iteration: int) -> Path:
        return self.folder / "checkpoints" / f"iteration-{iteration:06d}"

    def _committed(self) -> list[Path]:
        return committed(self.folder / "checkpoints")

    def _readable(self) -> list[State]:
        """The states of the checkpoints; one whose record is damaged has none."""
        states = list[State]()
        for path in self._committed():
            with contextlib.suppress(OSError, ValueError):
                states.append(_load(path))
        return states

    def _newest_whole(self, journal: Journal) -> Path | None:
        while paths := self._committed():
            if not (wrong := damage(paths[-1])):
                return paths[-1]
            set_aside(paths[-1])
            before = f"goes on from {paths[-2].name}" if len(paths) > 1 else "begins anew"
            why = f"{paths[-1].name} is damaged: {'; '.join(wrong[:3])}; the run {before}"
            journal.event("damaged", stage="ppo", checkpoint=paths[-1].name, why=why)
        return None


def _learners(groups: dict[str, ActorGroup]) -> list[str]:
    """Those of LEARNERS that the run has."""
    return [name for name in LEARNERS if name in groups]


def _load(checkpoint: Path) -> State:
    return State(**read_record(checkpoint).counters)
