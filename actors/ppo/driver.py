"""The PPO loop (report section 4.2.3), in plain order: `PPORun.loop`.

The driver holds handles and figures (numbers and strings); tensors go from group to group by reference. The first
`ppo.critic_warmup` iterations leave the policy frozen, where there is a critic. With `ppo.staleness=1` the engines
answer the prompts of the next iteration while this one trains: the previous policy sampled those answers, so the PPO
ratio uses the sampler's log-probabilities.

A run survives the loss of any rank (`recovery.py`): a repeated iteration comes out as it would have without the loss.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.group import ActorGroup, Call, Figures, Role, collect
from actors.ppo.checkpoints import Answers, PPOCheckpoints, State
from actors.ppo.log import append, export_metrics, lines, readable
from actors.ppo.recovery import Recovery
from actors.ppo.roles import REWARDS, Inputs, cluster_gpus, engines_sleep, ppo_roles, shares_gpus
from actors.ppo.transfer import transfer_of, way_of
from ilm_ray.alignment.ppo.arithmetic import further_prompts, prompt_numbers
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.run.journal import Journal
from ilm_ray.run.lock import only_driver
from ilm_ray.run.progress import Progress
from ilm_ray.run.stopping import ASKED, Stopped, stop_after_checkpoint

SAMPLE_EVERY = 4  # iterations between shown samples
SAMPLES = 4
VALIDATION = -1  # stands for the number of an iteration


class PPORun:
    """Loop and groups of one run. `with PPORun(...) as run: run.run(decode)`; leaving it stops all groups.

    `folder` gets the model, checkpoints and logs. `journal` gets an event for every replaced rank; without one it is
    `<folder>/journal.jsonl`. `roles` take the place of those that the settings name.
    """

    def __init__(
        self,
        ppo: PPOConfig,
        inputs: Inputs,
        folder: Path,
        journal: Journal | None = None,
        roles: list[Role] | None = None,
    ) -> None:
        self.ppo, self.inputs, self.folder = ppo, inputs, folder
        self.total = ppo.warmup + ppo.iterations
        self.checkpoints = PPOCheckpoints(folder, ppo.deadline_s)
        journal = journal or Journal(folder / "journal.jsonl")
        gpus = cluster_gpus()
        self.transfer = transfer_of(way_of(ppo, shares_gpus(ppo, gpus), gpus), ppo)
        self.sleeps = engines_sleep(ppo, gpus)
        self.recovery = Recovery(ppo, roles or ppo_roles(ppo, inputs, folder), self.checkpoints, journal)
        self.groups = self.recovery.groups
        # Engines, the policy that sent them weights, and its version: a replaced group has other weights, or none.
        self._served: tuple[ActorGroup, ActorGroup, int] | None = None

    @property
    def state(self) -> State:
        """Position of the run; another object after each loss of a learner."""
        return self.recovery.state

    def __enter__(self) -> "PPORun":
        """Take the folder and start the groups. Raises UserError where another driver trains in the folder."""
        with contextlib.ExitStack() as held:
            self.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_driver(self.folder, "PPO"))
            held.enter_context(self.recovery)
            self._held = held.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def run(self, decode: Callable[[list[int]], str]) -> list[Figures]:
        """All iterations that are left, checkpoints on the way, the model at the end. Returns all metric rows.

        Raises Stopped after Ctrl-C or SIGTERM, once the iteration under way is done and saved; GroupError where lost
        ranks cannot be made good.
        """
        with stop_after_checkpoint(self.folder):
            self.recovery.survive(self.loop, decode)
        return [json.loads(line) for line in lines(self.folder / "metrics.jsonl")]

    def loop(self, decode: Callable[[list[int]], str]) -> None:
        """The iterations that are left, in plain order. After a loss `run` calls it again; it goes on from `state`."""
        state, progress = self.state, Progress("ppo", self.total, done=self.state.iteration)
        while state.unlogged or state.iteration < self.total:
            if not state.unlogged:  # else a rank was lost after the training: validation and log are left
                started, number = time.monotonic(), state.iteration
                weights = [] if state.ahead else [self.send_weights()]
                answers = state.ahead or self.rollout(number)
                self.rest(answers)
                rewards = dict[str, Call]()
                if self.ppo.resample_rounds:
                    answers, rewards = self.resample(number, answers, weights)
                scores = self.score(answers, rewards)
                experience = self.make_experience(number, answers, scores)
                ahead = None
                if self.ppo.staleness and number + 1 < self.total:
                    self.collect(answers.call)  # until they are done the engines take no weights
                    weights.append(self.send_weights())
                    ahead = self.rollout(number + 1)
                row = self.collect_experience(number, answers, scores, experience)
                trained = self.train(number, experience)
                state.ahead = ahead
                state.unlogged = _complete(row, trained, weights, time.monotonic() - started)
            row = state.unlogged
            if self.validation_due():
                row["validation_reward"] = self.validate()
            samples = row.pop("samples")
            append(self.folder / "metrics.jsonl", [row])
            append(self.folder / "samples.jsonl", [readable(sample, row, decode) for sample in samples])
            export_metrics(row, self.total, self.folder.name)
            state.unlogged = None
            progress.update(state.iteration, reward=row["reward"], kl=row["kl"], tokens=row["response_tokens"])
            if state.iteration == self.total:
                break
            if state.iteration % self.ppo.checkpoint_every == 0:
                self.save()
            if (self.folder / ASKED).exists():
                self.recovery.survive(self.save)
                raise Stopped(f"stopped after {self.state.iteration} of {self.total} iterations, with a checkpoint")
        self.export()

    def send_weights(self) -> Figures:
        """Give the engines the policy's weights, unless they have them; returns bytes and seconds of the transfer."""
        size, started = 0, time.monotonic()
        engines, policy, version = self.groups["rollout"], self.groups["policy"], self.state.version
        if self._served != (engines, policy, version):
            size = self.transfer.send(policy, engines, version)
            self._served = (engines, policy, version)
        return {"bytes": size, "seconds": time.monotonic() - started}

    def rollout(self, number: int) -> Answers:
        """Start the engines on the iteration's prompts."""
        count, total = self.ppo.prompts_per_iteration, len(self.inputs.prompts)
        numbers = prompt_numbers(number, count, total, self.inputs.seed)
        return Answers(self._answer(self._groups_of(numbers), number), self.state.version)

    def rest(self, answers: Answers) -> None:
        """Wait for the answers and let the engines sleep, if the learners need their memory."""
        if self.sleeps:
            self.collect(answers.call)
            self._served = None  # a sleeping engine has no weights
            self.collect(self.groups["rollout"].start("sleep"))

    def resample(self, number: int, answers: Answers, weights: list[Figures]) -> tuple[Answers, dict[str, Call]]:
        """Ask further prompts in the place of groups whose scores are equal, for `ppo.resample_rounds` rounds at most.

        Returns the answers to train on, and their rewards by group. weights: gets the transfers on the way.
        """
        ppo, total, maker = self.ppo, len(self.inputs.prompts), self.groups["experience"]
        asked = prompt_numbers(number, ppo.prompts_per_iteration, total, self.inputs.seed)
        rounds = [{"rollout": answers.call, **self._rewards(answers)}]
        while True:
            counts = [{name: len(call.payloads) for name, call in calls.items()} for calls in rounds]
            payloads = [payload for calls in rounds for call in calls.values() for payload in call.payloads]
            chosen = maker.start("choose", "rollout", counts, *payloads)
            *played, (figures,) = self.collect(*[c for calls in rounds for c in calls.values()], chosen)
            missing = ppo.prompts_per_iteration - figures["kept"]
            share = max(figures["kept"] / figures["asked"], missing / ppo.prompts_per_iteration)
            count = math.ceil(missing / share) if missing else 0
            more = further_prompts(number, len(rounds), count, total, asked, self.inputs.seed)
            if not more or len(rounds) > ppo.resample_rounds:
                rolled = sum(map(_longest, played[:: len(rounds[0])]))  # the rollout is the first call of each round
                judged = sum(map(_longest, played)) - rolled
                scorers = [name for name in rounds[0] if name != "rollout"]
                rewards = {name: maker.start("choose", name, counts, *payloads) for name in scorers}
                return Answers(chosen, answers.version, rolled, judged), rewards
            asked += more
            weights.append(self.send_weights())  # engines that rest have none
            again = Answers(self._answer(self._groups_of(more), number, len(rounds)), answers.version)
            self.rest(again)
            rounds.append({"rollout": again.call, **self._rewards(again)})

    def score(self, answers: Answers, rewards: dict[str, Call]) -> dict[str, Call]:
        """Start log-probabilities, values and rewards of the answers: group -> call. rewards: calls that began before.

        The policy is left out where the answers are of older weights: the sampler's log-probabilities count then.
        """
        methods = {"policy": "logprobs", "reference": "logprobs", "critic": "values"}
        if answers.version < self.state.version:
            del methods["policy"]
        there = {name: method for name, method in methods.items() if name in self.groups}
        started = {name: self.groups[name].start(method, *answers.call.payloads) for name, method in there.items()}
        return started | (rewards or self._rewards(answers))

    def _rewards(self, answers: Answers) -> dict[str, Call]:
        there = [name for name in REWARDS if name in self.groups]
        return {name: self.groups[name].start("score", *answers.call.payloads) for name in there}

    def make_experience(self, number: int, answers: Answers, scores: dict[str, Call]) -> Call:
        """Start putting answers and scores together."""
        calls = {"rollout": answers.call, **scores}
        counts = {name: len(call.payloads) for name, call in calls.items()}
        shown = SAMPLES if number % SAMPLE_EVERY == 0 or number == self.total - 1 else 0
        payloads = [payload for call in calls.values() for payload in call.payloads]
        return self.groups["experience"].start("assemble", counts, number, shown, *payloads)

    def collect_experience(self, number: int, answers: Answers, scores: dict[str, Call], experience: Call) -> Figures:
        """Wait for the experience; its row for metrics.jsonl, and beside it `samples`: sequences to show as token ids.

        Raises RuntimeError where engines and policy disagree on the log-probabilities of the sampled tokens.
        """
        answered, *scored, assembled = self.collect(answers.call, *scores.values(), experience)
        row = assembled[0]
        if "logprob_gap" in row and not row["logprob_gap"] <= self.ppo.logprob_gap_bound:
            raise RuntimeError(
                f"rollout engine and policy disagree on the sampled tokens: mean |log-probability gap| "
                f"{row['logprob_gap']:.4f} at weight version {row['version']}, "
                f"ppo.logprob_gap_bound is {self.ppo.logprob_gap_bound}; the engine may hold other weights"
            )
        rolled, judged = _longest(answered) + answers.rolled, max(map(_longest, scored)) + answers.judged
        row["seconds"] = {"rollout": rolled, "score": judged}
        if "asked" in answered[0]:
            row |= {"asked_prompts": answered[0]["asked"], "kept_prompts": answered[0]["kept"]}
        row["staleness"] = self.state.version - answers.version
        return {"iteration": number, "warmup": number < self.ppo.warmup, **row}

    def train(self, number: int, experience: Call) -> Figures:
        """The steps of policy and critic, or of the critic alone during its warm-up; moves `state` on by an iteration.

        Returns the figures of rank 0, and the seconds of the slowest rank.
        """
        state, batch = self.state, experience.payloads[0]
        with self.recovery.learners_change():
            calls = [self.groups["critic"].start("train", batch, number)] if self.ppo.has_critic else []
            if number >= self.ppo.warmup:
                calls.append(self.groups["policy"].start("train", batch, number, state.cursor))
            trained = self.collect(*calls)
            figures = {name: value for ranks in trained for name, value in ranks[0].items()}
            state.iteration += 1
            state.version, state.cursor = figures.pop("version", state.version), figures.pop("cursor", state.cursor)
        figures.pop("updates", None)
        return figures | {"seconds": max(map(_longest, trained))}

    def validation_due(self) -> bool:
        """Whether the policy is validated after the iterations done so far; never before it has been trained."""
        every, trained = self.ppo.validate_every, self.state.iteration - self.ppo.warmup
        if every is None or not self.inputs.validation:
            return False
        return trained > 0 and (trained % every == 0 or self.state.iteration == self.total)

    def validate(self) -> float:
        """Mean reward on the prompts that nothing is trained on; the policy is kept if it has the best so far."""
        self.send_weights()
        answers = Answers(self._answer(self.inputs.validation, VALIDATION), self.state.version)
        calls = {"rollout": answers.call, **self._rewards(answers)}
        counts = {name: len(call.payloads) for name, call in calls.items()}
        payloads = [payload for call in calls.values() for payload in call.payloads]
        made = self.groups["experience"].start("mean_score", counts, *payloads)
        reward, state = float(self.collect(*calls.values(), made)[-1][0]["reward"]), self.state
        if state.best_reward is None or reward > state.best_reward:
            self.collect(self.groups["policy"].start("export", self.checkpoints.candidate(state.iteration)))
            state.best, state.best_reward = state.iteration, reward
        return reward

    def save(self) -> None:
        """A checkpoint of `state`, unless there is one."""
        if not self.checkpoints.has(self.state.iteration):
            self.checkpoints.save(self.groups, self.state)

    def export(self) -> None:
        """The model of the run: the policy with the best validation reward, else the last."""
        if self.state.best is None:
            self.collect(self.groups["policy"].start("export", self.folder / "model"))
        else:
            shutil.copytree(self.checkpoints.candidate(self.state.best), self.folder / "model", dirs_exist_ok=True)

    def collect(self, *calls: Call) -> list[list[Figures]]:
        """Wait for the calls; their figures, one list of ranks a call. Raises GroupError as `actors.group.collect`."""
        return collect(calls, self.ppo.deadline_s)

    def _groups_of(self, numbers: Sequence[int]) -> list[Prompt]:
        """Each of the prompts as often as it is answered."""
        return [self.inputs.prompts[i] for i in numbers for _ in range(self.ppo.answers_per_prompt)]

    def _answer(self, prompts: Sequence[Prompt], number: int, turn: int = 0) -> Call:
        """Start the engines, which have the policy's weights, on equal parts; seeded by iteration, turn and engine."""
        group, version = self.groups["rollout"], self.state.version
        engines = len(group.actors)
        first = self.inputs.seed * 1_000_003 + number * 1009 + turn * 500_009
        seeds = [(first + engine) % 2**31 for engine in range(engines)]
        return group.start_each("rollout", [(prompts[i::engines], version, seeds[i]) for i in range(engines)])


def _complete(row: Figures, trained: Figures, weights: list[Figures], whole: float) -> Figures:
    """An iteration's row with the training's figures, seconds and bytes. weights: transfers; whole: seconds in all."""
    sent = sum(transfer["seconds"] for transfer in weights)
    seconds = {"weights": sent, **row["seconds"], "train": trained["seconds"], "all": whole}
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    return {**row, **trained, "seconds": rounded, "weight_bytes": sum(transfer["bytes"] for transfer in weights)}


def _longest(ranks: list[Figures]) -> float:
    return max(figures["seconds"] for figures in ranks)
