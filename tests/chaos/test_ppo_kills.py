"""kill -9 on ranks of PPO, one at a time: the run goes on and ends with the weights of an undisturbed one, bit for bit.

Deterministic here means: rollouts by the torch generator on a CPU, one thread a rank (OMP_NUM_THREADS=1), fp32.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.evidence import state_of
from actors.group import ActorGroup, Call
from actors.ppo.driver import PPORun
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.run.journal import Journal, read_journal
from tests.actors.toy import text_inputs, toy_inputs, toy_mix, toy_ppo

# Who does what when a phase begins.
BEGINS = {
    "weights": ("rollout", "load_weights"),
    "rollout": ("rollout", "rollout"),
    "scoring": ("reward", "score"),
    "update": ("critic", "train"),
    "checkpoint": ("policy", "save"),
    "export": ("policy", "export"),
}
# The same of a run without critic and reward model.
ALONE = {"judging": ("function", "score"), "step": ("policy", "train")}
ROLES = ("rollout", "policy", "critic", "reference", "reward", "experience")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Blow:
    """Which role is hit, and in which phase (`start-up`: while it builds)."""

    phase: str
    role: str

    @property
    def begin(self) -> tuple[str, str]:
        return {**BEGINS, **ALONE}.get(self.phase, (self.role, "build"))


class Saboteur:
    """Watches what a run starts. One blow after the other: the next when what the last one hit has been replaced and
    an update has begun since. A rank that dies when its work is done is missed an iteration later: three for each."""

    def __init__(self, blows: list[Blow], seed: int, signal_number: int = signal.SIGKILL) -> None:
        self.left, self.rng, self.signal = list(blows), random.Random(seed), signal_number
        self.hit: list[str] = []
        self.pending: str | None = None  # a role that has to be built anew first
        self.armed = True
        self.groups: dict[str, ActorGroup] = {}

    def saw(self, group: ActorGroup, method: str, call: Call) -> None:
        role = group.role.name
        self.groups[role] = group
        if self.armed and self.left and (role, method) == self.left[0].begin:
            blow, self.armed = self.left.pop(0), False
            victim = self.groups[blow.role]
            # Writing a model, the last thing a run does, takes toys some milliseconds.
            longest = 0.002 if blow.phase == "export" else 0.05
            rank, delay = self.rng.randrange(len(victim.actors)), self.rng.uniform(0.0, longest)
            self.pending = blow.role
            threading.Thread(target=self._strike, args=(victim, rank, delay, call.needs)).start()
        elif method == "build" and role == self.pending:
            self.pending = None
        elif method == "train" and self.pending is None:
            self.armed = True

    def _strike(self, victim: ActorGroup, rank: int, delay: float, needs: list[Any]) -> None:
        if needs:  # a phase begins when what it works on is there
            ray.wait(needs, num_returns=len(needs), timeout=60)
        until = time.monotonic() + 60
        while not (pid := int(state_of(victim.actors[rank]).get("Pid") or 0)) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(pid, self.signal)
        self.hit.append(victim.names[rank])


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`watch(saboteur)`: from now on it sees what groups start."""
    start = ActorGroup._start

    def watched(saboteur: Saboteur) -> None:
        def seen(self: ActorGroup, method: str, args: Any) -> Call:
            call = start(self, method, args)
            saboteur.saw(self, method, call)
            return call

        monkeypatch.setattr(ActorGroup, "_start", seen)

    yield watched


def settings(iterations: int, **more: Any) -> PPOConfig:
    return toy_ppo(**{"iterations": iterations, "checkpoint_every": 1, **more})


def finish(ppo: PPOConfig, inputs: Any, run_dir: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The model and the metric rows, less times, and whether the engines were sent weights that they had lost."""
    folder = run_dir / "ppo"
    folder.mkdir(parents=True)
    with PPORun(ppo, inputs, folder, Journal(run_dir / "journal.jsonl")) as run:
        rows = run.run(lambda ids: "")
    for row in rows:
        del row["seconds"], row["weight_bytes"]
    assert [row["iteration"] for row in rows] == list(range(run.total))
    return (folder / "model" / "model.safetensors").read_bytes(), rows


def recoveries(run_dir: Path) -> list[dict[str, Any]]:
    return [event for event in read_journal(run_dir / "journal.jsonl") if event["kind"] == "recover"]


def strike_and_compare(
    tmp_path: Path,
    watch: Any,
    blows: list[Blow],
    ppo: PPOConfig,
    seed: int,
    undisturbed: PPOConfig | None = None,
    inputs: Any = None,
) -> None:
    """undisturbed: settings of the run to compare with, where they are others. inputs: None: the toy's."""
    inputs = inputs or toy_inputs(tmp_path, toy_mix(tmp_path))
    learners = ["critic", "policy"] if ppo.has_critic else ["policy"]
    whole = finish(undisturbed or ppo, inputs, tmp_path / "whole")
    saboteur = Saboteur(blows, seed)
    watch(saboteur)
    struck = finish(ppo, inputs, tmp_path / "struck")
    assert len(saboteur.hit) == len(blows)
    events = recoveries(tmp_path / "struck")
    assert not recoveries(tmp_path / "whole")
    for blow, name, event in zip(blows, saboteur.hit, events, strict=True):
        assert any(line.startswith(f"{name} in ") and line.endswith(": died") for line in event["lost"]), event
        # Answers of weights that are gone cannot be given again: then all goes back to a checkpoint.
        learner = blow.role in ("policy", "critic")
        torn = ppo.staleness == 1 and set(learners) <= set(event["restarted"])
        torn |= blow.phase in ("update", "step") and set(event["restarted"]) > {
            blow.role
        }  # seen while the learners were at it
        if blow.phase != "start-up":
            assert event["restarted"] == (learners if learner else [blow.role]) or torn
    assert struck[1] == whole[1]
    assert struck[0] == whole[0]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_survives_the_loss_of_an_engine_a_scorer_and_a_learner(
    tmp_path: Path, watch: Any, staleness: int
) -> None:
    blows = [Blow("weights", "rollout"), Blow("scoring", "reward"), Blow("update", "policy")]
    strike_and_compare(tmp_path, watch, blows, settings(8, staleness=staleness, checkpoint_every=2), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_without_critic_and_reward_model_survives_the_loss_of_any_rank(
    tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    """The processes in which functions run end with their rank."""
    (tmp_path / "counted.py").write_text("def letters(prompt, answer, metadata):\n    return len(set(answer)) / 8\n")
    monkeypatch.chdir(tmp_path)
    more = {"estimator": "grpo", "answers_per_prompt": 2, "correction": "truncate", "kl_in": "loss"}
    ppo = settings(12, rewards=[{"by": "counted:letters"}], function_ranks=2, staleness=staleness, **more)
    blows = [Blow("judging", "function"), Blow("step", "policy"), Blow("rollout", "rollout")]
    strike_and_compare(tmp_path, watch, blows, ppo, 9, inputs=text_inputs(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_groups_on_one_placement_lose_ranks_like_any_and_learn_the_same(tmp_path: Path, watch: Any) -> None:
    blows, apart = [Blow("rollout", "reference"), Blow("update", "critic")], settings(8)
    strike_and_compare(tmp_path, watch, blows, settings(8, colocate=True), 4, undisturbed=apart)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ranks_die_while_weights_are_broadcast(tmp_path: Path, watch: Any) -> None:
    """Receivers lose the sender, the sender loses a receiver; the members that are left meet anew."""
    blows, store = [Blow("weights", "rollout"), Blow("weights", "policy")], settings(8, rollout_engines=2)
    ppo = settings(8, rollout_engines=2, weight_transfer="broadcast")
    strike_and_compare(tmp_path, watch, blows, ppo, 6, undisturbed=store)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_rank_of_a_split_copy_dies_and_the_rows_are_those_of_an_undisturbed_run(tmp_path: Path, watch: Any) -> None:
    """The other ranks of its copy wait for it in a collective; the group meets anew."""
    ppo = settings(8, scorer_gpus=2, reference_ranks=4, reward_ranks=2)
    strike_and_compare(tmp_path, watch, [Blow("scoring", "reference"), Blow("scoring", "reward")], ppo, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", list(BEGINS)[:-1])
@pytest.mark.usefixtures("local_ray")
def test_any_rank_may_die_in_any_phase(tmp_path: Path, watch: Any, phase: str) -> None:
    ppo = settings(14, critic_ranks=2, reference_ranks=2, reward_ranks=2, rollout_engines=2)
    strike_and_compare(tmp_path, watch, [Blow(phase, role) for role in ROLES], ppo, sum(map(ord, phase)))


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("local_ray")
def test_any_rank_may_die_while_groups_start(tmp_path: Path, watch: Any, role: str) -> None:
    """A run of its own for each: a toy may be built before it is hit, and then no other role is started again."""
    ppo = settings(2, critic_ranks=2, reference_ranks=2, reward_ranks=2, rollout_engines=2)
    strike_and_compare(tmp_path, watch, [Blow("start-up", role)], ppo, sum(map(ord, role)))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("validate_every", [None, 1])
def test_a_learner_that_dies_while_a_model_is_written(tmp_path: Path, watch: Any, validate_every: int | None) -> None:
    strike_and_compare(tmp_path, watch, [Blow("export", "policy")], settings(3, validate_every=validate_every), 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("blow", "more"),
    [
        *itertools.product(
            [Blow("scoring", "reference"), Blow("update", "policy")], [{"colocate": False}, {"colocate": True}]
        ),
        # The other rank of the copy waits for it before the driver does.
        (Blow("scoring", "reference"), {"scorer_gpus": 2, "reference_ranks": 2, "reward_ranks": 2, "staleness": 1}),
    ],
)
def test_a_rank_that_hangs_is_replaced(tmp_path: Path, watch: Any, blow: Blow, more: dict[str, Any]) -> None:
    inputs = toy_inputs(tmp_path, toy_mix(tmp_path))
    ppo = settings(3, deadline_s=60.0, **more)
    whole = finish(ppo, inputs, tmp_path / "whole")
    saboteur = Saboteur([blow], 5, signal.SIGSTOP)
    watch(saboteur)
    assert finish(ppo, inputs, tmp_path / "struck") == whole
    (event,) = recoveries(tmp_path / "struck")
    assert any(line.startswith(saboteur.hit[0]) and line.endswith(": silent") for line in event["lost"])
    assert not any("experience" in line for line in event["lost"])  # it only waited for the other


DRIVER = """
import sys
from pathlib import Path

import ray

from ilm_ray.alignment.pretrain_data import PretrainMix
from tests.actors.toy import inputs_of
from tests.chaos.test_ppo_kills import Journal, PPORun, settings

address, folder, iterations = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": env})
run_dir, inputs = folder / "struck", inputs_of(folder, PretrainMix(folder / "tokens", {"en": 1.0}, 16))
(run_dir / "ppo").mkdir(parents=True, exist_ok=True)
with PPORun(settings(iterations), inputs, run_dir / "ppo", Journal(run_dir / "journal.jsonl")) as run:
    run.run(lambda ids: "")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
def test_a_killed_driver_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    iterations = 6
    inputs = toy_inputs(tmp_path, toy_mix(tmp_path))
    whole, rows = finish(settings(iterations), inputs, tmp_path / "whole")
    metrics, rng = tmp_path / "struck" / "ppo" / "metrics.jsonl", random.Random(2)

    def start() -> subprocess.Popen[bytes]:
        address = ray.get_runtime_context().gcs_address
        arguments = [address, str(tmp_path), str(iterations)]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=REPOSITORY, env=env)

    for reached in (1, 3, 5):
        driver, until = start(), time.monotonic() + 150
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= reached):
            assert driver.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.5))
        driver.kill()
        driver.wait()
    assert start().wait(150) == 0
    again = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k not in ("seconds", "weight_bytes")} for row in again] == rows
    assert (tmp_path / "struck" / "ppo" / "model" / "model.safetensors").read_bytes() == whole
