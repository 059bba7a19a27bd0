"""The reward stage's model, trained with its conditions, in the hands of others: the same rewards."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from ilm_ray.alignment.conditional import load_conditions, save_conditions
from ilm_ray.alignment.reward import RewardTask, pair_scores, read_pairs
from ilm_ray.errors import UserError
from ilm_ray.model.huggingface import load_scalar
from ilm_ray.tokenizer.tokenizer import Tokenizer
from jobs import checkpoint
from tests.alignment.small_run import config_of
from tests.alignment.test_layouts import run
from tests.processes import run_ranks


@pytest.fixture(scope="module")
def trained(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished reward model."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(run_dir, folder, dirs_exist_ok=True)
    run_ranks(run, 1, "reward", str(folder), str(folder / "reward"), deadline_s=280)
    prompts = config_of(folder).reward.system_prompts
    save_conditions(folder / "reward" / "model", Tokenizer.load(folder / "tokenizer"), prompts)
    return folder


def _inputs(run_dir: Path) -> tuple[list[list[int]], list[float]]:
    """Held-out sequences as the model reads them, and its rewards for them."""
    model = load_scalar(run_dir / "reward" / "model")
    pairs = read_pairs(config_of(run_dir), Tokenizer.load(run_dir / "tokenizer"), "heldout")
    with torch.no_grad():
        chosen, rejected = pair_scores(model, pairs)
    sequences = [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]
    return sequences, torch.stack([chosen, rejected], dim=1).flatten().tolist()


def _exported(run_dir: Path, layout: str, out: Path) -> Path:
    asked = ["export", "--run-dir", str(run_dir), "--stage", "reward", "--layout", layout, "--dtype", "fp32"]
    assert checkpoint.main([*asked, "--out", str(out)]) == 0
    return out


def test_the_weights_know_their_conditions_from_training_on(trained: Path) -> None:
    tokenizer = Tokenizer.load(trained / "tokenizer")
    assert load_conditions(trained / "reward" / "model", tokenizer) == {"code": "C.", "helpful": "H."}
    config = config_of(trained)
    assert RewardTask(config, trained).about.keys() == {"conditions"}
    other = trained / "other"
    shutil.copytree(trained / "reward" / "model", other)
    save_conditions(other, tokenizer, {"code": "C.", "helpful": "Another."})
    with pytest.raises(UserError, match="trained with conditions of hash"):
        load_conditions(other, tokenizer)


def test_transformers_gives_the_rewards_of_conditioned_pairs(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    out = _exported(trained, "llama", tmp_path / "out")
    assert json.loads((out / "conditions.json").read_text())["system_prompts"] == {"code": "C.", "helpful": "H."}
    scorer = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    for ids, reward in zip(*_inputs(trained), strict=True):
        assert float(scorer(torch.tensor([ids])).logits[0, 0]) == pytest.approx(reward, abs=1e-5)


@pytest.mark.slow
def test_vllm_gives_the_rewards_of_conditioned_pairs(trained: Path, tmp_path: Path) -> None:
    """By its native InternLM2ForRewardModel, read at the appended reward token."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
    )
    vllm = pytest.importorskip("vllm")
    scorer = vllm.LLM(
        str(_exported(trained, "internlm2", tmp_path / "out")),
        runner="pooling",
        trust_remote_code=True,  # of the configuration class that we wrote into the folder
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="float32",
        max_model_len=256,
    )
    assert scorer.llm_engine.model_config.architectures == ["InternLM2ForRewardModel"]
    sequences, rewards = _inputs(trained)
    inputs = [{"prompt_token_ids": ids} for ids in sequences]
    raw = vllm.PoolingParams(use_activation=False)
    found = scorer.encode(inputs, raw, pooling_task="token_classify", use_tqdm=False)
    for scores, reward in zip(found, rewards, strict=True):
        assert float(scores.outputs.data.flatten()[-1]) == pytest.approx(reward, abs=1e-4)
