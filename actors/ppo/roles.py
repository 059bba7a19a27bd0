"""The roles of PPO: inputs of a run, settings of each role, shares of the GPUs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from actors.group import Role
from actors.ppo.critic import Critic, CriticSettings
from actors.ppo.engines import VLLM_ENV, RolloutSettings, choose_backend
from actors.ppo.experience import ExperienceMaker, ExperienceSettings
from actors.ppo.functions import Functions, FunctionSettings
from actors.ppo.policy import Policy, PolicySettings
from actors.ppo.reference import FrozenSettings, Reference
from actors.ppo.reward import ChatIds, Reward, RewardSettings
from actors.ppo.rollout import Rollout
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.alignment.pretrain_data import PretrainMix
from ilm_ray.base.errors import UserError
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.fit import check_ppo_fits, gpus_of_groups, group_sizes, scorer_misfit
from ilm_ray.model.weights import load_shape
from ilm_ray.training.plan.alignment_memory import Work, engine_room

REWARDS = ("reward", "function")  # groups that score answers
# The share of a wait's deadline that functions of an iteration have: a group that is late as a whole counts as lost.
FUNCTION_SHARE = 0.5


@dataclass(frozen=True)
class Inputs:
    """Models, prompts and tokens that a run starts from."""

    policy: Path  # also the reference
    reward: Path | None  # also the critic's body; None: no part of the reward is a model's, see `Inputs.judge`
    prompts: list[Prompt]
    chat: ChatIds
    pretrain: PretrainMix | None
    reward_context: int
    micro_tokens: int  # most tokens of a micro-batch, rollouts and pre-training sequences together
    loss_chunk: int  # tokens whose logits exist at once
    seed: int
    validation: Sequence[Prompt] = ()  # never trained on; without any, the last policy is the result
    tokenizer: Path | None = None  # folder, for reward functions

    @property
    def judge(self) -> Path:
        """The reward model. Raises ValueError where there is none."""
        if self.reward is None:
            raise ValueError("ppo.rewards has a part by=model, and the run's inputs have no reward model")
        return self.reward


def ppo_roles(ppo: PPOConfig, inputs: Inputs, folder: Path) -> list[Role]:
    """The roles of a run, up to seven: those that the settings need; experience is kept in `folder`.

    On GPUs every rank has a whole GPU, an engine `engine_gpus` of them, or each an equal share where there are fewer
    GPUs than ranks. With `colocate` the ranks of the same number share a GPU. `scorer_gpus` ranks hold a copy of the
    reference or of the reward model together, on one node unless `colocate` places them.
    Raises UserError where a model cannot be split so, and where the groups find no place.
    """
    backend = choose_backend(ppo.rollout_backend)
    gpus = cluster_gpus()
    check_ppo_fits(ppo, gpus)
    _check_split(ppo, inputs)
    sizes = group_sizes(ppo)
    gpu = (1 / len(sizes) if gpus else 0.0) if ppo.colocate else gpu_share(sum(gpus_of_groups(ppo)))
    micro = inputs.micro_tokens
    engine = rollout_settings(ppo, inputs, backend)
    if shares_gpus(ppo, gpus):
        work = Work(engine.shape, micro, inputs.loss_chunk, ppo.precision)
        room = engine_room(work, ppo, gpus) if gpus else None
        engine = replace(engine, room=room, sleeps=engines_sleep(ppo, gpus))
    policy = PolicySettings(ppo, inputs.policy, inputs.seed, micro, inputs.loss_chunk, inputs.pretrain)
    critic = CriticSettings(ppo, inputs.reward or inputs.policy, inputs.seed, micro)
    span, chunk = ppo.scorer_gpus, inputs.loss_chunk
    reference = FrozenSettings(inputs.policy, micro, chunk, ppo.precision, span, ppo.temperature)
    env = VLLM_ENV if backend == "vllm" else {}
    # On a GPU that others share an engine is built first and alone, while what is free does not change.
    later = 1 if engine.room else 0
    roles = [
        Role("rollout", Rollout, engine, ppo.rollout_engines, gpus=gpu * ppo.engine_gpus, env=env),
        Role("policy", Policy, policy, ppo.policy_ranks, gpus=gpu, rendezvous=True, turn=later),
        Role("critic", Critic, critic, ppo.critic_ranks, gpus=gpu, rendezvous=True, turn=later),
        Role("reference", Reference, reference, ppo.reference_ranks, gpus=gpu, copy_ranks=span, turn=later),
        *reward_roles(ppo, inputs, ppo.reward_ranks, gpu, later),
        Role("experience", ExperienceMaker, ExperienceSettings(ppo, folder)),
    ]
    return [role for role in roles if role.name != "critic" or ppo.has_critic]


def reward_roles(ppo: PPOConfig, inputs: Inputs, ranks: int, gpu: float, turn: int = 0) -> list[Role]:
    """The groups that score answers: reward model and functions, those that `ppo.rewards` has.

    Raises ValueError where functions lack a tokenizer.
    """
    roles, span = list[Role](), ppo.scorer_gpus
    if ppo.has_reward_model:
        settings = reward_settings(ppo, inputs)
        roles.append(Role("reward", Reward, settings, ranks, gpus=gpu, copy_ranks=span, turn=turn))
    if ppo.functions:
        if inputs.tokenizer is None:
            raise ValueError("functions of ppo.rewards read texts, and the run's inputs have no tokenizer")
        budget_s = FUNCTION_SHARE * ppo.deadline_s
        functions = FunctionSettings(ppo.functions, inputs.tokenizer, inputs.chat.stop_ids, Path.cwd(), budget_s)
        roles.append(Role("function", Functions, functions, ppo.function_ranks))
    return roles


def _check_split(ppo: PPOConfig, inputs: Inputs) -> None:
    for folder in (inputs.policy, *([inputs.judge] if ppo.has_reward_model else [])):
        shape = load_shape(folder)
        if (reason := scorer_misfit(ppo, shape, shape.vocab_size)) is not None:
            raise UserError(f"{folder}: {reason}; set ppo.scorer_gpus to a number that does")


def shares_gpus(ppo: PPOConfig, gpus: int) -> bool:
    """Whether ranks of several groups may lie on one device (with `colocate` on CPUs too)."""
    return ppo.colocate or 0 < gpus < sum(gpus_of_groups(ppo))


def engines_sleep(ppo: PPOConfig, gpus: int) -> bool:
    """Whether engines give their memory to the learners after each rollout; with staleness they sample meanwhile."""
    return shares_gpus(ppo, gpus) and ppo.staleness == 0


def cluster_gpus() -> int:
    """Whole GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0.0))


def gpu_share(ranks: int) -> float:
    """GPUs for each of `ranks` ranks: 0 without any, at most 1, hundredths below that.

    A share lies on one GPU: 3 ranks on 2 GPUs take half a GPU each, not two thirds.
    """
    gpus = cluster_gpus()
    return math.floor(100 / math.ceil(ranks / gpus)) / 100 if gpus else 0.0


def rollout_settings(ppo: PPOConfig, inputs: Inputs, backend: str) -> RolloutSettings:
    """Settings of an engine that has its device to itself.

    Raises UserError where prompt and answer exceed the context that the policy was trained on.
    """
    shape = load_shape(inputs.policy)
    if (most := ppo.max_prompt_tokens + ppo.max_new_tokens) > shape.window:
        raise UserError(
            f"ppo.max_prompt_tokens + ppo.max_new_tokens = {most} tokens lie beyond the {shape.window} that "
            f"{inputs.policy} was trained on; lower one of them"
        )
    return RolloutSettings(
        shape=shape,
        backend=backend,
        precision=ppo.sampled_in,
        max_tokens=most,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        top_p=ppo.top_p,
        stop_ids=inputs.chat.stop_ids,
        seed=inputs.seed,
        deadline_s=ppo.deadline_s,
        gpus=ppo.engine_gpus,
    )


def reward_settings(ppo: PPOConfig, inputs: Inputs) -> RewardSettings:
    """Settings of a reward rank."""
    return RewardSettings(
        inputs.judge, inputs.micro_tokens, ppo.precision, inputs.chat, inputs.reward_context, ppo.scorer_gpus
    )
