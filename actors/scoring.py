"""Scores by PPO's actors: a policy's answers to prompts (reward, KL to a reference), and given preference pairs.

Prompts and conditions of the reward model are tokenised here too, for PPO and for evaluation alike.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Figures, Role, collect, start_groups, stop_groups
from actors.ppo.experience import ExperienceMaker, ExperienceSettings
from actors.ppo.reference import FrozenSettings, Reference
from actors.ppo.reward import ChatIds, Reward, RewardSettings
from actors.ppo.roles import REWARDS, Inputs, gpu_share, reward_roles, rollout_settings
from actors.ppo.rollout import Rollout
from ilm_ray.alignment.inputs import prompt_rows
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts
from ilm_ray.alignment.reward.conditional import Conditions, condition_prefix
from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.chat import AnyTokenizer, answer_ids, begins_chat, encode_chat
from ilm_ray.model.generate import rows_at_once
from ilm_ray.model.shape import Shape
from ilm_ray.model.weights import load_shape
from ilm_ray.training.measure import cost


def read_prompts(
    config: Config, tokenizer: AnyTokenizer, conditions: Conditions, split: str
) -> tuple[list[Prompt], int]:
    """Tokenised prompts of a split (`train` or `heldout`), and the number of prompts left out as too long.

    Raises UserError where no prompt is left, or where the reward model does not know a prompt's domain.
    """
    rows = [row for row in prompt_rows(config) if row.get("split", "train") == split]
    unknown = sorted({row["domain"] for row in rows} - conditions.prompts.keys())
    if unknown and conditions.prompts:
        raise UserError(
            f"ppo.prompts has domain '{unknown[0]}' that the reward model was not trained with "
            f"({', '.join(sorted(conditions.prompts))}); change the prompts or train it with "
            f"reward.system_prompts.{unknown[0]}"
        )
    prompts = [
        Prompt(
            str(row["id"]),
            row["domain"],
            encode_chat(tokenizer, row["prompt"], generation_prompt=True).ids,
            json.dumps({"prompt": row["prompt"], "metadata": row.get("metadata", {})}, ensure_ascii=False),
        )
        for row in rows
    ]
    kept = [p for p in prompts if len(p.ids) <= config.ppo.max_prompt_tokens]
    if not kept:
        raise UserError(
            f"ppo.prompts has no '{split}' prompt of at most {config.ppo.max_prompt_tokens} tokens; "
            f"add some or raise ppo.max_prompt_tokens"
        )
    return kept, len(prompts) - len(kept)


def chat_ids(tokenizer: AnyTokenizer, conditions: Conditions) -> ChatIds:
    """Token ids of the conditions, of an answer's end, and of the text that the chat template writes behind that
    end."""
    ids, mask = encode_chat(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    return ChatIds(
        {domain: condition_prefix(tokenizer, text) for domain, text in conditions.prompts.items()},
        conditions.reward_id,
        tokenizer.turn_end_id,
        ids[len(mask) - mask[::-1].index(1) :],
        [tokenizer.turn_end_id, tokenizer.eos_id],
        begins_chat(tokenizer),
    )


def score_policy(
    model: Path,
    reference: Path,
    reward: Path | None,
    prompts: Sequence[Prompt],
    chat: ChatIds,
    config: Config,
    tokenizer: Path,
    decode: Callable[[list[int]], str],
) -> list[Figures]:
    """One row a prompt: id, domain, prompt and response (text), reward, kl (nats a sequence to `reference`), tokens.

    Answers are sampled as in PPO (temperature, top_p), seeded by config.seed, by the embedded generator. It holds the
    policy on one GPU, and so are reference and reward model held, for any `ppo.scorer_gpus`.
    """
    ppo = config.ppo.model_copy(update={"scorer_gpus": 1})
    training = config.training
    inputs = Inputs(
        policy=model,
        reward=reward,
        prompts=list(prompts),
        chat=chat,
        pretrain=None,
        reward_context=config.reward.context,
        micro_tokens=training.micro_tokens,
        loss_chunk=training.loss_chunk,
        seed=config.seed,
        tokenizer=tokenizer,
    )
    return [
        {**row, "prompt": decode(row["prompt"]), "tokens": len(row["response"]), "response": decode(row["response"])}
        for row in _score(ppo, inputs, reference)
    ]


def _score(ppo: PPOConfig, inputs: Inputs, reference: Path) -> list[Figures]:
    gpu, micro = gpu_share(4 if ppo.has_reward_model else 3), inputs.micro_tokens
    scored = FrozenSettings(inputs.policy, micro, inputs.loss_chunk, ppo.precision, temperature=ppo.temperature)
    roles = [
        Role("rollout", Rollout, rollout_settings(ppo, inputs, "torch"), gpus=gpu),
        Role("policy", Reference, scored, gpus=gpu),
        Role("reference", Reference, replace(scored, model=reference), gpus=gpu),
        *reward_roles(ppo, inputs, 1, gpu),
        Role("experience", ExperienceMaker, ExperienceSettings(ppo, None)),
    ]
    deadline_s = ppo.deadline_s + _sampling_s(ppo, load_shape(inputs.policy), len(inputs.prompts), gpu > 0)
    groups = start_groups(roles, f"scoring-{time.time_ns()}", deadline_s)
    try:
        sent = groups["policy"].start("weights")
        stamp = collect([sent], deadline_s)[0][0]
        loaded = groups["rollout"].start("load_weights", sent.payloads[0], stamp["version"], stamp["checksum"])
        rolled = groups["rollout"].start("rollout", inputs.prompts, stamp["version"], inputs.seed)
        policy = groups["policy"].start("logprobs", *rolled.payloads)
        frozen = groups["reference"].start("logprobs", *rolled.payloads)
        calls = {"rollout": rolled, "policy": policy, "reference": frozen}
        calls |= {name: groups[name].start("score", *rolled.payloads) for name in REWARDS if name in groups}
        counts = {name: len(call.payloads) for name, call in calls.items()}
        payloads = [payload for call in calls.values() for payload in call.payloads]
        made = groups["experience"].start("assemble", counts, 0, len(inputs.prompts), *payloads)
        return collect([loaded, *calls.values(), made], deadline_s)[-1][0]["samples"]
    finally:
        stop_groups(groups)


def _sampling_s(ppo: PPOConfig, shape: Shape, prompts: int, on_gpu: bool) -> float:
    """Seconds that loading the model and answering `prompts` prompts may take, beside the seconds of any call."""
    columns = ppo.max_prompt_tokens + ppo.max_new_tokens
    rows = rows_at_once(shape, columns, 2 if ppo.precision == "bf16" else 4)
    work_s = cost.generation_s(shape, prompts, ppo.max_prompt_tokens, ppo.max_new_tokens, rows, on_gpu)
    return cost.deadline_s(shape, work_s) - cost.START_S


def score_pairs(
    model: Path, pairs: Sequence[dict[str, Any]], tokenizer: AnyTokenizer, conditions: Conditions, config: Config
) -> list[tuple[float, float]]:
    """Scores (chosen, rejected) of pairs in the form of `reward.data`, under the condition of each pair's domain."""
    if not pairs:
        return []
    chat, ppo = chat_ids(tokenizer, conditions), config.ppo
    span = ppo.scorer_gpus
    settings = RewardSettings(model, config.training.micro_tokens, ppo.precision, chat, config.reward.context, span)
    role = Role("reward", Reward, settings, span, gpus=gpu_share(span), copy_ranks=span)
    groups = start_groups([role], f"answers-{time.time_ns()}", ppo.deadline_s)
    try:
        call = groups["reward"].start("score", ray.put(as_rollouts(pairs, tokenizer)))
        collect([call], ppo.deadline_s)
        scores: dict[int, float] = ray.get(call.payloads[0], timeout=ppo.deadline_s)
    finally:
        stop_groups(groups)
    return [(scores[2 * i], scores[2 * i + 1]) for i in range(len(pairs))]


def as_rollouts(pairs: Sequence[dict[str, Any]], tokenizer: AnyTokenizer) -> Rollouts:
    """The answers of the pairs as rollouts: chosen, rejected, chosen, ...; each with its end token."""
    prompts, responses = list[Prompt](), list[list[int]]()
    for number, pair in enumerate(pairs):
        for side in ("chosen", "rejected"):
            ids, response = answer_ids(tokenizer, pair["prompt"], pair[side])
            prompts.append(Prompt(f"{number}-{side}", pair["domain"], ids))
            responses.append(response)
    return Rollouts(prompts, responses, [torch.zeros(len(ids)) for ids in responses], 0)
