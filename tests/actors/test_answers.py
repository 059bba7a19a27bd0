"""Pairs scored by PPO's reward actor get the scores that the reward model's own training gives them."""

import json
from pathlib import Path

import pytest
import torch

from actors.ppo.reward import Reward, RewardSettings
from actors.scoring import as_rollouts, chat_ids
from ilm_ray.alignment.reward.conditional import Conditions
from ilm_ray.alignment.reward.task import pair_scores
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import ScalarModel, Shape, initialize
from ilm_ray.model.weights import load_scalar, save_internlm2
from tests.alignment.small_run import pairs_of

CONDITIONS = {"code": "C.", "helpful": "Be of use."}


def test_scores_of_pairs_are_those_of_training(tmp_path: Path) -> None:
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], 320)
    model = ScalarModel(
        Shape(vocab_size=320, layers=1, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)
    )
    initialize(model, 0)
    save_internlm2(model, tmp_path / "model")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "再"}]
    pairs = [
        {
            "domain": ("code", "helpful")[i % 2],
            "prompt": turns[-1 - 2 * (i % 2) :],
            "chosen": "yes" * i,
            "rejected": "好",
        }
        for i in range(1, 6)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    tokenizer.save(tmp_path / "tokenizer")
    given = [f"reward.data={tmp_path / 'pairs.jsonl'}", f"reward.system_prompts={json.dumps(CONDITIONS)}"]
    with torch.no_grad():
        read = pairs_of(load_config("nano", None, given), tmp_path / "tokenizer", "train")
        expected = torch.stack(pair_scores(load_scalar(tmp_path / "model"), read), 1).flatten()
    settings = RewardSettings(
        tmp_path / "model", 64, "fp32", chat_ids(tokenizer, Conditions(CONDITIONS, tokenizer.reward_id)), context=512
    )
    actor = Reward(0, 1, settings)
    actor.build()
    scores, _ = actor.score(as_rollouts(pairs, tokenizer))
    assert [scores[i] for i in range(10)] == pytest.approx(expected.tolist(), abs=1e-5)
    assert len({round(score, 4) for score in scores.values()}) > 5
