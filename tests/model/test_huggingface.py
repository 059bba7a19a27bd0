"""Folders for others: read by Transformers, by vLLM's native InternLM2 classes, and back without a change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ilm_ray.base.errors import UserError
from ilm_ray.model import shards
from ilm_ray.model.huggingface import export_model, read_model
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, Shape, initialize
from ilm_ray.model.weights import full_weights
from tests.ask_vllm import NEW_TOKENS, ask_vllm

SHAPE = Shape(
    vocab_size=512, layers=3, hidden=128, kv_heads=2, queries_per_kv=2, head_dim=32, mlp_hidden=192, rope_base=5e4
)
IDS = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 2}
PROMPTS = [[5, 9, 200, 31, 7], [8, 8, 450], list(range(40, 90))]


def made(kind: type[CausalLM] | type[ScalarModel], seed: int = 0) -> CausalLM | ScalarModel:
    model = kind(SHAPE)
    initialize(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


@pytest.mark.parametrize("weight_format", ("internlm2", "llama"))
@pytest.mark.parametrize("kind", [CausalLM, ScalarModel])
def test_what_was_exported_is_imported_bit_for_bit(
    weight_format: str, kind: type[CausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 200_000)  # bytes: several shards
    model = made(kind)
    export_model(model, tmp_path / "out", weight_format, torch.float32, IDS)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    back = read_model(tmp_path / "out")
    assert type(back) is kind and back.shape == replace(SHAPE, family=weight_format)
    ours, theirs = full_weights(model), full_weights(back)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.long
def test_transformers_gives_our_logits_and_our_scores(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy, reward = made(CausalLM), made(ScalarModel)
    export_model(policy, tmp_path / "policy", "llama", torch.float32, IDS)
    export_model(reward, tmp_path / "reward", "llama", torch.float32, IDS)
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", dtype=torch.float32)
    for prompt in PROMPTS:
        theirs = causal(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(policy(Packed.of([prompt])), theirs, atol=1e-5, rtol=1e-5)
        score = scorer(torch.tensor([prompt])).logits[0, 0]
        torch.testing.assert_close(reward(Packed.of([prompt]))[-1], score, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_vllm_continues_as_we_do_with_its_own_class(tmp_path: Path, ranks: int) -> None:
    policy = made(CausalLM)
    export_model(policy, tmp_path / "policy", "internlm2", torch.float32, IDS)
    architectures, answers = ask_vllm(tmp_path / "policy", PROMPTS, "policy", tmp_path, ranks)
    assert architectures == ["InternLM2ForCausalLM"]
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens = list(prompt)
        for _ in range(NEW_TOKENS):
            tokens.append(int(policy(Packed.of([tokens]))[-1].argmax()))
        assert tokens[len(prompt) :] == answer


@pytest.mark.slow
def test_vllm_scores_as_we_do_with_its_own_class(tmp_path: Path) -> None:
    reward = made(ScalarModel)
    export_model(reward, tmp_path / "reward", "internlm2", torch.float32, IDS)
    architectures, answers = ask_vllm(tmp_path / "reward", PROMPTS, "reward", tmp_path)
    assert architectures == ["InternLM2ForRewardModel"]
    for prompt, scores in zip(PROMPTS, answers, strict=True):
        torch.testing.assert_close(torch.tensor(scores), reward(Packed.of([prompt])), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"attention_bias": True}, "tensors do not fit.*bias"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "does not describe.*factor"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"num_hidden_layers": 2}, "tensors do not fit"),
        ({"num_key_value_heads": 1}, "fit"),
        ({"num_attention_heads": "many"}, "does not describe"),
        ({"rope_scaling": "linear"}, "does not describe"),
        ({"rope_scaling": {"type": "dynamic"}}, "does not describe.*factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 0}}, "factor is 0, no positive number"),
        ({"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}, "dynamic by alpha"),
        ({"max_position_embeddings": "long"}, "max_position_embeddings is 'long'"),
    ],
)
def test_a_model_that_ours_cannot_be_is_refused_by_name(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    export_model(made(CausalLM), tmp_path, "llama", torch.float32, IDS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        read_model(tmp_path)


def test_damaged_and_missing_weights_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 200_000)
    export_model(made(CausalLM), tmp_path, "internlm2", torch.float32, IDS)
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    weights = {name: tensor.clone() for name, tensor in load_file(first).items()}  # the file is mapped
    first.write_bytes(first.read_bytes()[:500])
    with pytest.raises(UserError, match=first.name):
        read_model(tmp_path)
    save_file({name: tensor for name, tensor in weights.items() if tensor.dim() > 1} | {"extra": torch.ones(1)}, first)
    with pytest.raises(UserError, match="tensors do not fit"):
        read_model(tmp_path)
    second.unlink()
    with pytest.raises(UserError, match=second.name):
        read_model(tmp_path)
    for content in ("{", "[]", "{}"):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match=r"index\.json cannot be read"):
            read_model(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="holds no"):
        read_model(tmp_path)
