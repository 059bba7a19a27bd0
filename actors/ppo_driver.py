"""The PPO loop (report section 4.2.3): holds handles and figures; tensors go from group to group by reference.

An iteration: rollout -> log-probabilities of policy and reference, values, conditional scores -> experience ->
policy and critic steps -> the new weights to the engines. The first `critic_warmup` iterations leave the policy frozen.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.critic import Critic, CriticSettings
from actors.experience import ExperienceMaker, Parts
from actors.group import Figures, Group, Role, Work, figures, start_groups, stop_groups
from actors.policy import Policy, PolicySettings, PretrainMix
from actors.reference import FrozenSettings, Reference
from actors.reward import Reward, RewardSettings
from actors.rollout import VLLM_ENV, Rollout, RolloutSettings, choose_backend
from ilm_ray.alignment.experience import Prompt
from ilm_ray.alignment.ppo import prompt_numbers
from ilm_ray.config.schema import PPOConfig
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.errors import UserError
from ilm_ray.model.huggingface import load_shape
from ilm_ray.observe.progress import Progress

COMMIT = "COMMIT"
KEEP_CHECKPOINTS = 2
SAMPLE_EVERY = 4  # iterations between shown samples
SAMPLES = 4


@dataclass(frozen=True)
class ChatTokens:
    """What the groups need to know of the tokenizer."""

    prefixes: dict[str, list[int]]  # domain -> tokens of the reward model's condition
    reward_id: int
    end_id: int  # ends an assistant's message
    tail: list[int]  # tokens that ChatML writes behind `end_id`
    stop_ids: list[int]


@dataclass(frozen=True)
class Inputs:
    """Everything the loop starts from, beside its settings."""

    policy: Path  # also the reference
    reward: Path  # also the critic's body
    prompts: list[Prompt]
    chat: ChatTokens
    pretrain: PretrainMix | None
    reward_context: int
    micro_tokens: int
    seed: int


@dataclass
class State:
    """What a checkpoint knows beside the weights. All randomness follows from the seed and these counters."""

    iteration: int = 0  # iterations done, warm-up included
    version: int = 0  # policy updates done
    cursor: int = 0  # pre-training sequences consumed


class PPORun:
    """Groups and state of one run. `with PPORun(...) as run: run.run(decode)`; leaving it stops all groups."""

    def __init__(self, ppo: PPOConfig, inputs: Inputs, folder: Path) -> None:
        self.ppo, self.inputs, self.folder = ppo, inputs, folder
        self.total = ppo.critic_warmup + ppo.iterations
        self.state = State()
        self.served: int | None = None  # weight version that the engines have
        self.groups: dict[str, Group] = {}

    def __enter__(self) -> "PPORun":
        # A namespace of its own: two runs may both have a policy-0.
        namespace = f"ppo-{self.folder.parent.name}-{time.time_ns()}"
        self.groups = start_groups(ppo_roles(self.ppo, self.inputs), namespace, self.ppo.deadline_s)
        try:
            self.restore()
        except BaseException:
            stop_groups(self.groups)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        stop_groups(self.groups)

    def run(self, decode: Callable[[list[int]], str]) -> list[Figures]:
        """All iterations that are left, checkpoints on the way, the model at the end. Returns all metric rows."""
        metrics, samples = self.folder / "metrics.jsonl", self.folder / "samples.jsonl"
        for path in (metrics, samples):  # what a killed run logged behind its last checkpoint will be logged again
            _keep_before(path, self.state.iteration)
        progress = Progress("ppo", self.total, done=self.state.iteration)
        while self.state.iteration < self.total:
            row, shown = self.iterate()
            _append(metrics, [row])
            _append(samples, [_readable(sample, row, decode) for sample in shown])
            progress.update(self.state.iteration, reward=row["reward"], kl=row["kl"], tokens=row["response_tokens"])
            if self.state.iteration % self.ppo.checkpoint_every == 0 and self.state.iteration < self.total:
                self.checkpoint()
        self._figures(self.groups["policy"].start("export", self.folder / "model"))
        return [json.loads(line) for line in _lines(metrics)]

    def iterate(self) -> tuple[Figures, list[Figures]]:
        """One iteration; the row for metrics.jsonl, and sequences to show as token ids."""
        started = time.monotonic()
        number, groups = self.state.iteration, self.groups
        frozen = number < self.ppo.critic_warmup
        seconds = {"weights": self.transfer()}
        rollouts = self._rollouts(number)
        old = groups["policy"].start("logprobs", *rollouts.payloads)
        reference = groups["reference"].start("logprobs", *rollouts.payloads)
        values = groups["critic"].start("values", *rollouts.payloads)
        scores = groups["reward"].start("score", *rollouts.payloads)
        sources = [rollouts, old, reference, values, scores]
        parts = Parts(*(len(work.payloads) for work in sources))
        shown = SAMPLES if number % SAMPLE_EVERY == 0 or number == self.total - 1 else 0
        made = groups["experience"].start(
            "assemble", parts, shown, *(payload for work in sources for payload in work.payloads)
        )
        answers = self._figures(*sources, made)
        row = answers[-1][0]
        samples = row.pop("samples")
        seconds |= {"rollout": _longest(answers[0]), "score": max(map(_longest, answers[1:5]))}
        self._check_gap(row)
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
        seconds["all"] = time.monotonic() - started
        row["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        return {"iteration": number, "warmup": frozen, **row}, samples

    def transfer(self) -> float:
        """Give the engines the policy's weights if theirs are others, in one message; returns the seconds it took."""
        started = time.monotonic()
        if self.served != self.state.version:
            self.served = None
            sent = self.groups["policy"].start("weights")
            stamp = self._figures(sent)[0][0]
            if stamp["version"] != self.state.version:
                raise RuntimeError(f"policy sends version {stamp['version']}, the run is at {self.state.version}")
            loaded = self.groups["rollout"].start("load_weights", sent.payloads[0], stamp["version"], stamp["checksum"])
            self._figures(loaded)
            self.served = self.state.version
        return time.monotonic() - started

    def checkpoint(self) -> Path:
        """Save both trained models and the state; the marker comes last; the newest two stay."""
        target = self.folder / "checkpoints" / f"iteration-{self.state.iteration:06d}"
        if target.exists():  # left by a run that was killed while saving
            shutil.rmtree(target)
        target.mkdir(parents=True)
        self._figures(*(self.groups[role].start("save", target / role, "state") for role in ("policy", "critic")))
        write_text_atomic(target / COMMIT, json.dumps(vars(self.state)))
        for old in self._committed()[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
        return target

    def restore(self) -> None:
        """Go on from the newest complete checkpoint; without one, from the beginning."""
        committed = self._committed()
        if not committed:
            return
        newest = committed[-1]
        self.state = State(**json.loads((newest / COMMIT).read_text()))
        policy, critic = self.groups["policy"], self.groups["critic"]
        loads = [group.start("restore", newest / group.role.name, "state") for group in (policy, critic)]
        self._figures(*loads)
        self._figures(policy.start("set_version", self.state.version))

    def _committed(self) -> list[Path]:
        return sorted(marker.parent for marker in (self.folder / "checkpoints").glob(f"iteration-*/{COMMIT}"))

    def _rollouts(self, number: int) -> Work:
        """The iteration's prompts, in equal parts to all engines."""
        prompts, count = self.inputs.prompts, self.ppo.prompts_per_iteration
        chosen = [prompts[i] for i in prompt_numbers(number, count, len(prompts), self.inputs.seed)]
        engines = len(self.groups["rollout"].actors)
        arguments = [
            (chosen[i::engines], self.state.version, _seed(self.inputs.seed, number, i)) for i in range(engines)
        ]
        return self.groups["rollout"].start_each("rollout", arguments)

    def _check_gap(self, row: Figures) -> None:
        if not row["logprob_gap"] <= self.ppo.logprob_gap_bound:
            raise RuntimeError(
                f"rollout engine and policy disagree on the sampled tokens: mean |log-probability gap| "
                f"{row['logprob_gap']:.4f} at weight version {row['version']}, "
                f"ppo.logprob_gap_bound is {self.ppo.logprob_gap_bound}; the engine may hold other weights"
            )

    def _figures(self, *works: Work) -> list[list[Figures]]:
        return figures(works, self.ppo.deadline_s)


def ppo_roles(ppo: PPOConfig, inputs: Inputs) -> list[Role]:
    """The six roles. On GPUs every rank has one of its own, or an equal share where there are fewer GPUs than ranks."""
    backend = choose_backend(ppo.rollout_backend)
    ranks = ppo.policy_ranks + ppo.critic_ranks + ppo.reference_ranks + ppo.reward_ranks + ppo.rollout_engines
    gpu = gpu_share(ranks)
    if 0 < gpu < 1 and max(ppo.policy_ranks, ppo.critic_ranks) > 1:
        raise UserError(
            f"the {ranks} ranks of PPO have {ray.cluster_resources()['GPU']:g} GPU(s), and NCCL lets no two ranks of "
            f"one group share a GPU; lower ppo.*_ranks, or set ppo.policy_ranks and ppo.critic_ranks to 1"
        )
    micro = inputs.micro_tokens
    frozen = FrozenSettings(inputs.policy, micro, ppo.precision)
    return [
        Role(
            "rollout",
            Rollout,
            rollout_settings(ppo, inputs, backend, gpu),
            ppo.rollout_engines,
            gpus=gpu,
            env=VLLM_ENV if backend == "vllm" else {},
        ),
        Role(
            "policy",
            Policy,
            PolicySettings(ppo, inputs.policy, inputs.seed, micro, inputs.pretrain),
            ppo.policy_ranks,
            gpus=gpu,
            rendezvous=True,
        ),
        Role(
            "critic",
            Critic,
            CriticSettings(ppo, inputs.reward, inputs.seed, micro),
            ppo.critic_ranks,
            gpus=gpu,
            rendezvous=True,
        ),
        Role("reference", Reference, frozen, ppo.reference_ranks, gpus=gpu),
        Role("reward", Reward, reward_settings(ppo, inputs), ppo.reward_ranks, gpus=gpu),
        Role("experience", ExperienceMaker, ppo),
    ]


def gpu_share(ranks: int) -> float:
    """GPUs for each of `ranks` ranks: 0 without any, at most 1, hundredths below that.

    A share lies on one GPU: 3 ranks on 2 GPUs take half a GPU each, not two thirds.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0.0))
    return math.floor(100 / math.ceil(ranks / gpus)) / 100 if gpus else 0.0


def rollout_settings(ppo: PPOConfig, inputs: Inputs, backend: str, gpu: float) -> RolloutSettings:
    return RolloutSettings(
        shape=load_shape(inputs.policy),
        backend=backend,
        precision=ppo.precision,
        max_tokens=ppo.max_prompt_tokens + ppo.max_new_tokens,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        top_p=ppo.top_p,
        stop_ids=inputs.chat.stop_ids,
        seed=inputs.seed,
        gpu_memory_share=0.9 * (gpu or 1.0),
    )


def reward_settings(ppo: PPOConfig, inputs: Inputs) -> RewardSettings:
    c = inputs.chat
    return RewardSettings(
        inputs.reward,
        inputs.micro_tokens,
        ppo.precision,
        c.prefixes,
        c.reward_id,
        c.end_id,
        c.tail,
        inputs.reward_context,
    )


def _seed(seed: int, iteration: int, engine: int) -> int:
    return (seed * 1_000_003 + iteration * 1009 + engine) % 2**31


def _longest(ranks: list[Figures]) -> float:
    return max(figure["seconds"] for figure in ranks)


def _readable(sample: Figures, row: Figures, decode: Callable[[list[int]], str]) -> Figures:
    texts = {key: decode(sample[key]) for key in ("prompt", "response")}
    return {"iteration": row["iteration"], "version": row["version"], **sample, **texts}


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _lines(path: Path) -> list[str]:
    """Lines of a JSON Lines file. Only a newline ends one: texts inside may hold U+2028 or U+0085."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def _keep_before(path: Path, iteration: int) -> None:
    """Drop the rows of `iteration` and later from a log; a last line cut by a crash belongs to those."""
    kept = []
    for line in _lines(path) if path.exists() else []:
        try:
            early = json.loads(line)["iteration"] < iteration
        except json.JSONDecodeError:
            continue
        if early:
            kept.append(line + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, "".join(kept))
