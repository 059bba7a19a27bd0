"""A toy of two layers with random weights, and the inputs of a PPO run on it."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from actors.ppo.reward import ChatIds
from actors.ppo.roles import Inputs
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.alignment.pretrain_data import PretrainMix
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape, initialize
from ilm_ray.model.weights import save_internlm2

SHAPE = Shape(vocab_size=96, layers=2, hidden=64, kv_heads=2, queries_per_kv=1, head_dim=32, mlp_hidden=96)
FAMILY = replace(SHAPE, tied=True, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True)
BOS, END, REWARD = 1, 2, 3


def toy_models(folder: Path, shape: Shape = SHAPE) -> tuple[Path, Path]:
    """A policy and a reward model."""
    policy, reward = CausalLM(shape), ScalarModel(shape)
    initialize(policy, 0)
    initialize(reward, 1)
    with torch.no_grad():  # sharper than at initialisation, so that top_p has something to cut
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    save_internlm2(policy, folder / "policy")
    save_internlm2(reward, folder / "reward")
    return folder / "policy", folder / "reward"


def toy_inputs(folder: Path, pretrain: PretrainMix | None = None, micro_tokens: int = 4096) -> Inputs:
    toy_models(folder)
    return inputs_of(folder, pretrain, micro_tokens)


def inputs_of(folder: Path, pretrain: PretrainMix | None = None, micro_tokens: int = 4096) -> Inputs:
    """The inputs of a run whose models are in `folder` already."""
    prompts = [Prompt(f"p{i}", ("code", "helpful")[i % 2], [BOS, *range(10 + i, 14 + i + i % 3)]) for i in range(8)]
    chat = ChatIds({"code": [40, 41], "helpful": [42, 43, 44]}, REWARD, END, [5], [END])
    validation = [Prompt(f"v{i}", ("code", "helpful")[i % 2], [BOS, *range(30 + i, 36 + i)]) for i in range(3)]
    return Inputs(folder / "policy", folder / "reward", prompts, chat, pretrain, 256, micro_tokens, 4096, 7, validation)


def text_inputs(folder: Path) -> Inputs:
    """As the toy's, with a tokenizer of bytes, prompts that have metadata, and no reward model."""
    shape = replace(SHAPE, vocab_size=288)
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], shape.vocab_size)
    tokenizer.save(folder / "tokenizer")
    model = CausalLM(shape)
    initialize(model, 0)
    inputs = toy_inputs(folder)
    save_internlm2(model, folder / "text_policy")
    prompts = [
        replace(p, ids=[tokenizer.bos_id, *tokenizer.encode(f"say {n}")], row=json.dumps({"metadata": {"number": n}}))
        for n, p in enumerate(inputs.prompts)
    ]
    chat = replace(inputs.chat, stop_ids=[tokenizer.turn_end_id, tokenizer.eos_id])
    return replace(
        inputs, policy=folder / "text_policy", reward=None, prompts=prompts, validation=prompts[2:5], chat=chat,
        tokenizer=folder / "tokenizer",
    )  # fmt: skip


def toy_mix(folder: Path) -> PretrainMix:
    """Pre-training sequences that all differ."""
    documents = [
        {"tokens": [BOS, *((7 * i + j * j) % 80 + 6 for j in range(19))], "bytes": 20, "id": i, "url": "", "dump": ""}
        for i in range(12)
    ]
    write_shard(folder / "tokens" / "en" / "train", 0, documents)
    return PretrainMix(folder / "tokens", {"en": 1.0}, 16)


def toy_ppo(**changes: object) -> PPOConfig:
    settings: dict[str, object] = {
        "iterations": 2,
        "prompts_per_iteration": 6,
        "critic_warmup": 1,
        "max_prompt_tokens": 16,
        "max_new_tokens": 8,
        "policy_lr": 1e-3,
        "critic_lr": 1e-3,
        "policy_ranks": 2,
        "critic_ranks": 1,
        "reference_ranks": 1,
        "reward_ranks": 1,
        "rollout_engines": 1,
        "precision": "fp32",
        "rollout_backend": "torch",
        "logprob_gap_bound": 1e-3,
        "checkpoint_every": 2,
        "validate_every": None,
        "deadline_s": 240.0,
    }
    return PPOConfig.model_validate({**settings, **changes})
