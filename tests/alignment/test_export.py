"""The reward stage's model, trained with its conditions, in the hands of others: the same rewards."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ilm_ray.alignment.reward.conditional import carried_conditions, load_conditions, save_conditions
from ilm_ray.alignment.reward.task import RewardTask, pair_scores
from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.weights import load_scalar
from jobs import checkpoint
from tests.alignment.small_run import config_of, pairs_of
from tests.alignment.test_layouts import run
from tests.ask_vllm import ask_vllm
from tests.processes import run_ranks

pytestmark = pytest.mark.ranks


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
    pairs = pairs_of(config_of(run_dir), run_dir / "tokenizer", "heldout")
    with torch.no_grad():
        chosen, rejected = pair_scores(model, pairs)
    sequences = [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]
    return sequences, torch.stack([chosen, rejected], dim=1).flatten().tolist()


def _exported(run_dir: Path, weight_format: str, out: Path) -> Path:
    arguments = ["export", "--run-dir", str(run_dir), "--stage", "reward", "--format", weight_format, "--dtype", "fp32"]
    assert checkpoint.main([*arguments, "--out", str(out)]) == 0
    return out


def test_the_weights_know_their_conditions_from_training_on(trained: Path) -> None:
    tokenizer = Tokenizer.load(trained / "tokenizer")
    assert load_conditions(trained / "reward" / "model", tokenizer).prompts == {"code": "C.", "helpful": "H."}
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
        with torch.no_grad():
            assert float(scorer(torch.tensor([ids])).logits[0, 0]) == pytest.approx(reward, abs=1e-5)


def test_an_exported_reward_model_comes_back_with_its_conditions(trained: Path, tmp_path: Path) -> None:
    out, back = _exported(trained, "internlm2", tmp_path / "out"), tmp_path / "back"
    assert checkpoint.main(["import", "--model", str(out), "--out", str(back)]) == 0
    assert load_conditions(back, Tokenizer.load(trained / "tokenizer")).prompts == {"code": "C.", "helpful": "H."}
    for text, message in (("[]", "cannot be read"), ('{"system_prompts": {"code": 1}}', "is no text")):
        (out / "conditions.json").write_text(text)
        with pytest.raises(UserError, match=message):
            carried_conditions(out)


@pytest.mark.slow
def test_vllm_gives_the_rewards_of_conditioned_pairs(trained: Path, tmp_path: Path) -> None:
    """By its native InternLM2ForRewardModel, read at the appended reward token."""
    sequences, rewards = _inputs(trained)
    out = _exported(trained, "internlm2", tmp_path / "out")
    architectures, scores = ask_vllm(out, sequences, "reward", tmp_path)
    assert architectures == ["InternLM2ForRewardModel"]
    assert [of_sequence[-1] for of_sequence in scores] == pytest.approx(rewards, abs=1e-4)
