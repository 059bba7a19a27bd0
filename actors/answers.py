"""Score preference pairs with a conditional reward model, by PPO's reward actor."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Role, collect, start_groups, stop_groups
from actors.ppo.reward import Reward, RewardSettings
from actors.scoring import chat_ids
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts
from ilm_ray.config import Config
from ilm_ray.data.tokenizer.chatml import encode_chat
from ilm_ray.data.tokenizer.tokenizer import Tokenizer


def score_pairs(
    model: Path, pairs: Sequence[dict[str, Any]], tokenizer: Tokenizer, conditions: dict[str, str], config: Config
) -> list[tuple[float, float]]:
    """Scores (chosen, rejected) of pairs in the form of `reward.data`, under the condition of each pair's domain."""
    if not pairs:
        return []
    chat, ppo = chat_ids(tokenizer, conditions), config.ppo
    settings = RewardSettings(
        model,
        config.pretrain.micro_tokens,
        ppo.precision,
        chat.prefixes,
        chat.reward_id,
        chat.end_id,
        chat.tail,
        config.reward.context,
    )
    gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    groups = start_groups([Role("reward", Reward, settings, gpus=gpus)], f"answers-{time.time_ns()}", ppo.deadline_s)
    try:
        call = groups["reward"].start("score", ray.put(as_rollouts(pairs, tokenizer)))
        collect([call], ppo.deadline_s)
        scores: dict[int, float] = ray.get(call.payloads[0], timeout=ppo.deadline_s)
    finally:
        stop_groups(groups)
    return [(scores[2 * i], scores[2 * i + 1]) for i in range(len(pairs))]


def as_rollouts(pairs: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> Rollouts:
    """The answers of the pairs as rollouts: chosen, rejected, chosen, ...; each with its end token."""
    prompts, responses = list[Prompt](), list[list[int]]()
    for number, pair in enumerate(pairs):
        ids = encode_chat(tokenizer, pair["prompt"], generation_prompt=True).ids
        for side in ("chosen", "rejected"):
            prompts.append(Prompt(f"{number}-{side}", pair["domain"], ids))
            responses.append([*tokenizer.encode(pair[side]), tokenizer.im_end_id])
    return Rollouts(prompts, responses, [torch.zeros(len(ids)) for ids in responses], 0)
