"""Alignment with a brought tokenizer: labels of SFT, and one input of the reward model in training and in PPO."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.ppo.reward import Reward, RewardSettings
from actors.scoring import as_rollouts, chat_ids
from ilm_ray.alignment.inputs import preference_rows
from ilm_ray.alignment.reward.conditional import Conditions
from ilm_ray.alignment.sft import SFTTask
from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.opening import bring_tokenizer, open_tokenizer
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import save_internlm2
from tests.alignment.small_run import config_of, make_run, pairs_of, tokenize_chats
from tests.data.tokenizer.brought import LLAMA2, LLAMA3, QWEN, byte_level, publish, spaced

pytestmark = pytest.mark.process  # chat templates are rendered in a process of their own
SHAPE = Shape(vocab_size=448, layers=1, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)
ANSWER_ENDS = {"qwen": "<|im_end|>", "llama2": " </s>", "llama3": "<|eot_id|>", "none": "<|im_end|>"}


@pytest.fixture(params=["qwen", "llama2", "llama3", "none"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Name of a chat template, and a run whose tokenizer and model were brought."""
    templates = {"qwen": QWEN, "llama2": LLAMA2, "llama3": LLAMA3, "none": None}
    make_run(tmp_path)
    made = spaced() if request.param == "llama2" else byte_level()
    source = publish(tmp_path / "source", made, templates[request.param], begins=request.param != "qwen")
    for path in (tmp_path / "tokenizer").iterdir():
        path.unlink()
    bring_tokenizer(source, tmp_path / "tokenizer")
    for stage in ("pretrain", "sft"):
        save_internlm2(CausalLM(SHAPE), tmp_path / stage / "model")
    return request.param, tmp_path


def test_sft_counts_what_the_assistant_says(run: tuple[str, Path]) -> None:
    name, folder = run
    config = config_of(folder)
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"context": 400, "pretrain_share": 0.0})})
    tokenize_chats(folder, 400)
    task, tokenizer = SFTTask(config, folder), open_tokenizer(folder / "tokenizer")
    rows = [json.loads(line)["messages"] for line in (folder / "chat.jsonl").read_text().splitlines()]
    for number, messages in zip(task.conversations.heldout, rows[::10], strict=True):
        labels = task.example(number)[1]
        said = tokenizer.decode(labels[labels != IGNORE].tolist())
        assert said.strip() == (messages[1]["content"] + ANSWER_ENDS[name]).strip()


def test_the_reward_model_reads_in_ppo_what_it_was_trained_on(
    run: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = run
    config = config_of(folder)
    tokenizer, rows = open_tokenizer(folder / "tokenizer"), list(preference_rows(config))
    trained = [ids for p in pairs_of(config, folder / "tokenizer", "train") for ids in (p.chosen, p.rejected)]
    read = list[list[int]]()

    def record(batch: Any) -> torch.Tensor:
        cuts = batch.cu_seqlens.tolist()
        read.extend(batch.tokens[a:b].tolist() for a, b in itertools.pairwise(cuts))
        return torch.zeros(len(batch.tokens))

    chat = chat_ids(tokenizer, Conditions(config.reward.system_prompts, tokenizer.reward_id))
    reward = Reward(0, 1, RewardSettings(folder, 10_000, "fp32", chat, config.reward.context))
    monkeypatch.setattr(reward, "model", record, raising=False)
    reward.score(as_rollouts([row for row in rows if row["split"] == "train"], tokenizer))
    assert sorted(read) == sorted(trained)
    assert all(ids[-1] == tokenizer.reward_id and max(ids) < tokenizer.vocab_size for ids in read)
    begins = np.array([ids[0] == tokenizer.bos_id for ids in read])
    assert begins.all() or not begins.any()


def test_a_tokenizer_that_is_too_large_for_the_model_is_refused(run: tuple[str, Path]) -> None:
    _, folder = run
    save_internlm2(CausalLM(Shape(**{**vars(SHAPE), "vocab_size": 400})), folder / "pretrain" / "model")
    with pytest.raises(UserError, match="embeddings for 400 tokens and its tokenizer 4"):
        SFTTask(config_of(folder), folder)
