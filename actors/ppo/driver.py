"""The PPO loop (report section 4.2.3): holds handles and figures; tensors go from group to group by reference.

An iteration: rollout -> log-probabilities of policy and reference, values, conditional scores -> experience ->
policy and critic steps -> the new weights to the engines. The first `critic_warmup` iterations leave the policy frozen.
With `ppo.staleness=1` the engines answer the next iteration's prompts while this one trains: those answers are by the
weights before the update, and the update's ratio is to the log-probabilities that they were sampled with.

A run survives the loss of any rank. Groups that learn nothing are started again by themselves, and the iteration begins
anew; policy and critic are started again together, and the run goes back to its newest checkpoint, or to its beginning,
which is rebuilt from the seed. It does so too where it needs answers of weights that the policy no longer has. As all
randomness follows from the seed and the counters of `State`, what is repeated comes out as it would have without the
loss.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.group import (
    PLACEMENT_DEADLINE_S,
    Figures,
    Group,
    GroupError,
    Work,
    figures,
    lost_ranks,
    place_together,
    start_groups,
    stop_groups,
)
from actors.ppo.experience import Parts
from actors.ppo.log import append, export_metrics, keep_before, lines, readable
from actors.ppo.recovery import Fall, why_hopeless
from actors.ppo.roles import Inputs, ppo_roles
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.arithmetic import prompt_numbers
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.run import metrics
from ilm_ray.run.journal import Journal
from ilm_ray.run.progress import Progress
from ilm_ray.run.stopping import ASKED, Stopped, stop_after_checkpoint

COMMIT = "COMMIT"
FLIGHT = "flight.parquet"  # in a checkpoint: answers to the next iteration's prompts, by the weights before
KEEP_CHECKPOINTS = 2
SAMPLE_EVERY = 4  # iterations between shown samples
SAMPLES = 4
EVIDENCE_CHARS = 200  # Ray adds advice of many sentences to a death
LEARNERS = ("policy", "critic")  # their weights are those of one state of the run, or none

Result = TypeVar("Result")


@dataclass
class State:
    """What a checkpoint knows beside the weights. All randomness follows from the seed and these counters."""

    iteration: int = 0  # iterations done, warm-up included
    version: int = 0  # policy updates done
    cursor: int = 0  # pre-training sequences consumed
    best: int | None = None  # iterations done when the policy with the best validation reward was there
    best_reward: float | None = None


@dataclass(frozen=True)
class Repair:
    """What was lost and is being replaced: for the journal."""

    since: float
    iteration: int
    lost: list[str]
    evidence: str


@dataclass(frozen=True)
class Flight:
    """Answers, or answers under way, to the prompts of an iteration; `version`: of the weights that give them."""

    work: Work
    version: int


class PPORun:
    """Groups and state of one run. `with PPORun(...) as run: run.run(decode)`; leaving it stops all groups.

    `folder` gets the model, checkpoints and logs. `journal` hears of every rank that had to be replaced; without one
    that is told in `<folder>/journal.jsonl`.
    """

    def __init__(self, ppo: PPOConfig, inputs: Inputs, folder: Path, journal: Journal | None = None) -> None:
        self.ppo, self.inputs, self.folder = ppo, inputs, folder
        self.journal = journal or Journal(folder / "journal.jsonl")
        self.total = ppo.critic_warmup + ppo.iterations
        self.state = State()
        self.served: int | None = None  # weight version that the engines have
        self.groups: dict[str, Group] = {}
        self.roles = ppo_roles(ppo, inputs, folder)
        self._shared: PlacementGroup | None = None  # where all groups lie, with ppo.colocate
        self.falls: list[Fall] = []
        self._flight: Flight | None = None  # for iteration `state.iteration`, begun in the one before
        self._torn = False  # the learners' weights are not (yet) those of `state`
        self._repair: Repair | None = None
        self._unlogged: tuple[Figures, list[Figures]] | None = None  # row and samples of an iteration just done

    def __enter__(self) -> "PPORun":
        try:
            if self.ppo.colocate:
                self._shared = place_together(self.roles)
            self._surviving(lambda: None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        stop_groups(self.groups)
        if self._shared is not None:
            remove_placement_group(self._shared)

    def run(self, decode: Callable[[list[int]], str]) -> list[Figures]:
        """All iterations that are left, checkpoints on the way, the model at the end. Returns all metric rows.

        Raises Stopped where Ctrl-C or SIGTERM asked for the end, when the iteration under way is done and saved.
        """
        progress = Progress("ppo", self.total, done=self.state.iteration)
        with stop_after_checkpoint(self.folder):
            while self._surviving(lambda: self._advance(decode, progress)):
                if (self.folder / ASKED).exists() and self.state.iteration < self.total:
                    self._surviving(self._save_unless_saved)
                    raise Stopped(f"stopped after {self.state.iteration} of {self.total} iterations, with a checkpoint")
        return [json.loads(line) for line in lines(self.folder / "metrics.jsonl")]

    def _advance(self, decode: Callable[[list[int]], str], progress: Progress) -> bool:
        """The next iteration with its logs and checkpoint, or the model where there is none left: then False."""
        if self._unlogged is None and self.state.iteration == self.total:
            self._export()
            return False
        # Kept until it is logged: the iteration is done, even if a rank is lost in the validation behind it.
        self._unlogged = self._unlogged or self.iterate()
        row, shown = self._unlogged
        if self._validation_due():
            row["validation_reward"] = self.validate()
        append(self.folder / "metrics.jsonl", [row])
        append(self.folder / "samples.jsonl", [readable(sample, row, decode) for sample in shown])
        export_metrics(row, self.total, self.folder.name)
        self._unlogged = None
        progress.update(self.state.iteration, reward=row["reward"], kl=row["kl"], tokens=row["response_tokens"])
        if self.state.iteration % self.ppo.checkpoint_every == 0 and self.state.iteration < self.total:
            self.checkpoint()
        return True

    def _surviving(self, act: Callable[[], Result]) -> Result:
        """`act` with all groups at work. Where ranks are lost on the way they are replaced, and `act` begins anew.

        Raises GroupError where a method raised, or where too many attempts were lost (`recovery.why_hopeless`).
        """
        while True:
            try:
                self._start_missing()
                return act()
            except GroupError as error:
                self._let_go(error)

    def _start_missing(self) -> None:
        missing = [role for role in self.roles if role.name not in self.groups]
        if not missing:
            return
        # A namespace of its own: two runs may both have a policy-0, and so may one before and after a loss.
        namespace = f"ppo-{self.folder.parent.name}-{time.time_ns()}"
        # A lost node may come back; until a run has begun, there is nothing to wait for.
        placement_s = self.ppo.deadline_s if self.falls else PLACEMENT_DEADLINE_S
        started = start_groups(missing, namespace, self.ppo.deadline_s, placement_s, self._shared)
        self.groups |= started
        if "rollout" in started:
            self.served = None
        if "policy" in started:
            self._torn = True
            self.restore()
            self._torn = False
        if self._repair is not None:
            self.journal.event(
                "recover",
                stage="ppo",
                iteration=self._repair.iteration,
                lost=self._repair.lost,
                restarted=sorted(started),
                goes_on_at=self.state.iteration,
                seconds=round(time.monotonic() - self._repair.since, 2),
                why=self._repair.evidence,
            )
            self._repair = None

    def _let_go(self, error: GroupError) -> None:
        """Stop the groups that lost ranks, and both learners where the weights of one are in doubt."""
        lost = {(one.group, one.rank): one for one in (*lost_ranks(self.groups.values(), "passing"), *error.lost)}
        if not lost:
            raise error
        self.falls.append(Fall(self.state.iteration, frozenset((one.group, one.method) for one in lost.values())))
        why = why_hopeless(self.falls)
        if why:
            raise GroupError(f"{error}; given up: {why}", error.lost) from error
        names = {one.group for one in lost.values()}
        older = self._flight is not None and self._flight.version < self.state.version
        self._flight = None
        if older or self._torn or not names.isdisjoint(LEARNERS):
            names.update(LEARNERS)
        said = [f"{one.group}-{one.rank} in {one.method}(): {one.fate}" for one in lost.values()]
        for one in lost.values():
            metrics.counter(metrics.FAILURES).inc(tags={"stage": "ppo", "category": one.fate})
        if self._repair is not None:  # another loss before the first was made good
            said = [*self._repair.lost, *said]
        since = self._repair.since if self._repair else time.monotonic()
        self._repair = Repair(since, self.state.iteration, said, str(error).splitlines()[-1][:EVIDENCE_CHARS])
        for name in names & self.groups.keys():
            self.groups.pop(name).stop()

    def iterate(self) -> tuple[Figures, list[Figures]]:
        """One iteration; the row for metrics.jsonl, and sequences to show as token ids."""
        started = time.monotonic()
        number, groups = self.state.iteration, self.groups
        frozen = number < self.ppo.critic_warmup
        sent, flight, following = [], self._flight, None
        if flight is None:
            sent.append(self.transfer())
            flight = self._rollouts(number)
        rollouts, staleness = flight.work, self.state.version - flight.version
        old = [] if staleness else [groups["policy"].start("logprobs", *rollouts.payloads)]
        reference = groups["reference"].start("logprobs", *rollouts.payloads)
        values = groups["critic"].start("values", *rollouts.payloads)
        scores = groups["reward"].start("score", *rollouts.payloads)
        sources = [rollouts, *old, reference, values, scores]
        asked = sum(len(work.payloads) for work in old)
        parts = Parts(len(rollouts.payloads), asked, *(len(work.payloads) for work in (reference, values, scores)))
        shown = SAMPLES if number % SAMPLE_EVERY == 0 or number == self.total - 1 else 0
        made = groups["experience"].start(
            "assemble", parts, number, shown, *(payload for work in sources for payload in work.payloads)
        )
        if self.ppo.staleness and number + 1 < self.total:
            self._figures(rollouts)  # the engines take no weights before
            sent.append(self.transfer())
            following = self._rollouts(number + 1)
        answers = self._figures(*sources, made)
        row = answers[-1][0]
        samples = row.pop("samples")
        seconds = {
            "weights": sum(one["seconds"] for one in sent),
            "rollout": _longest(answers[0]),
            "score": max(map(_longest, answers[1:-1])),
        }
        if not staleness:
            self._check_gap(row)
        self._torn = True  # until all have answered, some ranks may have taken the step and others not
        value = groups["critic"].start("train", made.payloads[0], number)
        works = [value]
        if not frozen:
            works.append(groups["policy"].start("train", made.payloads[0], number, self.state.cursor))
        trained = self._figures(*works)
        seconds["train"] = max(map(_longest, trained))
        for ranks in trained:
            row |= {k: v for k, v in ranks[0].items() if k not in ("cursor", "version", "updates")}
        if not frozen:
            self.state.cursor, self.state.version = trained[1][0]["cursor"], trained[1][0]["version"]
        self.state.iteration += 1
        self._flight, self._torn = following, False
        seconds["all"] = time.monotonic() - started
        row["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        row |= {"staleness": staleness, "weight_bytes": sum(one["bytes"] for one in sent)}
        return {"iteration": number, "warmup": frozen, **row}, samples

    def _validation_due(self) -> bool:
        every, done = self.ppo.validate_every, self.state.iteration - self.ppo.critic_warmup
        if every is None or not self.inputs.validation:
            return False
        return done > 0 and (done % every == 0 or self.state.iteration == self.total)

    def validate(self) -> float:
        """Mean reward on the prompts that nothing is trained on; the policy is kept where none before it had more."""
        self.transfer()
        engines = len(self.groups["rollout"].actors)
        prompts = self.inputs.validation
        arguments = [(prompts[i::engines], self.state.version, _seed(self.inputs.seed, -1, i)) for i in range(engines)]
        rolled = self.groups["rollout"].start_each("rollout", arguments)
        scores = self.groups["reward"].start("score", *rolled.payloads)
        ranks = self._figures(rolled, scores)[1]
        reward = float(sum(rank["total"] for rank in ranks)) / sum(rank["count"] for rank in ranks)
        if self.state.best_reward is None or reward > self.state.best_reward:
            self._figures(self.groups["policy"].start("export", self._candidate(self.state.iteration)))
            self.state.best, self.state.best_reward = self.state.iteration, reward
        return reward

    def _candidate(self, iteration: int) -> Path:
        return self.folder / "candidates" / f"iteration-{iteration:06d}"

    def _export(self) -> None:
        """The model of the run: the policy with the best validation reward, else the last."""
        if self.state.best is None:
            self._figures(self.groups["policy"].start("export", self.folder / "model"))
        else:
            shutil.copytree(self._candidate(self.state.best), self.folder / "model", dirs_exist_ok=True)

    def transfer(self) -> Figures:
        """Give the engines the policy's weights if theirs are others, in one message; returns its bytes and seconds."""
        size, started = 0, time.monotonic()
        if self.served != self.state.version:
            self.served = None
            sent = self.groups["policy"].start("weights")
            stamp = self._figures(sent)[0][0]
            if stamp["version"] != self.state.version:
                raise RuntimeError(f"policy sends version {stamp['version']}, the run is at {self.state.version}")
            loaded = self.groups["rollout"].start("load_weights", sent.payloads[0], stamp["version"], stamp["checksum"])
            self._figures(loaded)
            self.served, size = self.state.version, stamp["bytes"]
        return {"bytes": size, "seconds": time.monotonic() - started}

    def _save_unless_saved(self) -> None:
        if _at(self.folder, self.state.iteration) not in self._committed():
            self.checkpoint()

    def checkpoint(self) -> Path:
        """Save both trained models and the state; the marker comes last; the newest two stay."""
        target = _at(self.folder, self.state.iteration)
        if target.exists():  # left by a run that was killed while saving
            shutil.rmtree(target)
        target.mkdir(parents=True)
        self._figures(*(self.groups[role].start("save", target / role, "state") for role in LEARNERS))
        if self._flight is not None:  # waited for here, not at the beginning of the next iteration
            self._figures(self.groups["experience"].start("keep", target / FLIGHT, *self._flight.work.payloads))
        write_text_atomic(target / COMMIT, json.dumps(vars(self.state)))
        for old in self._committed()[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
        # A state that the run may go back to may name an older candidate than the newest one.
        wanted = {self._candidate(state.best) for state in map(_state_of, self._committed()) if state.best is not None}
        for candidate in (self.folder / "candidates").glob("iteration-*"):
            if candidate not in wanted:
                shutil.rmtree(candidate)
        return target

    def restore(self) -> None:
        """Go on from the newest complete checkpoint; without one, from the beginning, where fresh learners are.

        What was logged behind it will be logged again.
        """
        committed = self._committed()
        self.state, self._unlogged = _state_of(committed[-1]) if committed else State(), None
        self._flight = None
        blackbox.drop_from(self.folder, self.state.iteration)
        for name in ("metrics.jsonl", "samples.jsonl"):
            keep_before(self.folder / name, self.state.iteration)
        self.served = None  # the numbers of versions are given anew
        if committed:
            learners = [self.groups[name] for name in LEARNERS]
            self._figures(*(group.start("restore", committed[-1] / group.role.name, "state") for group in learners))
            self._figures(self.groups["policy"].start("set_version", self.state.version))
            if (committed[-1] / FLIGHT).exists():
                kept = self.groups["experience"].start("recall", committed[-1] / FLIGHT)
                self._flight = Flight(kept, self._figures(kept)[0][0]["version"])

    def _committed(self) -> list[Path]:
        return sorted(marker.parent for marker in (self.folder / "checkpoints").glob(f"iteration-*/{COMMIT}"))

    def _rollouts(self, number: int) -> Flight:
        """The iteration's prompts, in equal parts to all engines, which have the policy's weights."""
        prompts, count = self.inputs.prompts, self.ppo.prompts_per_iteration
        chosen = [prompts[i] for i in prompt_numbers(number, count, len(prompts), self.inputs.seed)]
        engines = len(self.groups["rollout"].actors)
        arguments = [
            (chosen[i::engines], self.state.version, _seed(self.inputs.seed, number, i)) for i in range(engines)
        ]
        return Flight(self.groups["rollout"].start_each("rollout", arguments), self.state.version)

    def _check_gap(self, row: Figures) -> None:
        if not row["logprob_gap"] <= self.ppo.logprob_gap_bound:
            raise RuntimeError(
                f"rollout engine and policy disagree on the sampled tokens: mean |log-probability gap| "
                f"{row['logprob_gap']:.4f} at weight version {row['version']}, "
                f"ppo.logprob_gap_bound is {self.ppo.logprob_gap_bound}; the engine may hold other weights"
            )

    def _figures(self, *works: Work) -> list[list[Figures]]:
        return figures(works, self.ppo.deadline_s)


def _at(folder: Path, iteration: int) -> Path:
    return folder / "checkpoints" / f"iteration-{iteration:06d}"


def _state_of(checkpoint: Path) -> State:
    return State(**json.loads((checkpoint / COMMIT).read_text()))


def _seed(seed: int, iteration: int, engine: int) -> int:
    return (seed * 1_000_003 + iteration * 1009 + engine) % 2**31


def _longest(ranks: list[Figures]) -> float:
    return max(figure["seconds"] for figure in ranks)
