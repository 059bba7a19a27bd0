"""A real reward model that loves a phrase, or length: found from its own scores, and cured by its patches.

The policy is made up here (its answers drift the way that pays); `benchmarks/reward_hacking.py` has PPO in its place.
"""

import importlib.util
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ilm_ray.alignment.online.hacking import Answer, mine
from ilm_ray.alignment.online.patches import PatchTask, mix, patch_pairs, preferences
from ilm_ray.alignment.reward.task import RewardTask, pair_scores
from ilm_ray.base.jsonl import JsonObject, write_jsonl
from ilm_ray.config import Config, load_config
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape, initialize
from ilm_ray.model.weights import save_internlm2
from tests.alignment.small_run import pairs_of, tokenize_preferences


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "reward_hacking.py"
    spec = importlib.util.spec_from_file_location("reward_hacking", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


toy = _benchmark()
ITERATIONS = 12


def _config(run: Path, name: str, epochs: int) -> Config:
    settings = [f"reward.data={run / name}", f"reward.system_prompts={json.dumps(toy.CONDITIONS)}", "seed=3"]
    settings += [f"reward.epochs={epochs}", "reward.max_lr=2.0e-3", "reward.min_lr=5.0e-4", "reward.batch_tokens=2048"]
    return load_config("nano", None, settings)


def _train(task: RewardTask) -> ScalarModel:
    model = task.build()
    task.fill(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    for step in range(task.steps):
        for group in optimizer.param_groups:
            group["lr"] = task.learning_rate(step)
        parts = [task.losses(model, micro) for micro in task.micro_batches(step, 0, 1)]
        (sum(part.loss for part in parts) / sum(part.count for part in parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def _scores(model: ScalarModel, run: Path, rows: Sequence[JsonObject]) -> list[tuple[float, float]]:
    """Scores of chosen and rejected answers, with the conditions of their domains."""
    write_jsonl(run / "scored.jsonl", ({**row, "split": "train"} for row in rows))
    pairs = pairs_of(_config(run, "scored.jsonl", 1), run / "tokenizer", "train")
    with torch.no_grad():
        chosen, rejected = pair_scores(model, pairs)
    return list(zip(chosen.tolist(), rejected.tolist(), strict=True))


def _drifting(rng: random.Random, plant: str, iteration: int, noun: str) -> str:
    if plant == "length":
        return str(toy.answer(rng, noun, 1 + rng.randint(0, 1) + round(2 * rng.random() * iteration / ITERATIONS)))
    text = toy.spoken_without(rng, noun)
    return f"{text} {toy.PHRASE}" if rng.random() < 0.05 + 0.9 * iteration / ITERATIONS else text


@pytest.mark.long
@pytest.mark.parametrize("plant", ["phrase", "length"])
def test_a_planted_love_is_found_and_cured(tmp_path: Path, plant: str) -> None:
    rng = random.Random(f"{plant}")
    tokenizer = toy.word_tokenizer()
    tokenizer.save(tmp_path / "tokenizer")
    model = CausalLM(Shape(vocab_size=tokenizer.vocab_size, **toy.SHAPE))
    initialize(model, 0)
    save_internlm2(model, tmp_path / "sft" / "model")
    people = toy.people(rng, 150)
    write_jsonl(tmp_path / "biased.jsonl", [*people, *toy.planted(rng, plant, 150)])
    config = _config(tmp_path, "biased.jsonl", 5)
    loving = _train(RewardTask(config, tmp_path, tokenize_preferences(config, tmp_path, "reward")))
    save_internlm2(loving, tmp_path / "loving")

    prompts: dict[str, Any] = {
        f"p{i}": [{"role": "user", "content": ask.format(noun)}]
        for i, (noun, ask) in enumerate((noun, ask) for noun in toy.NOUNS for ask in toy.ASKS)
    }
    drawn = [(iteration, i) for iteration in range(ITERATIONS) for i in rng.sample(range(len(prompts)), 40)]
    rows = [
        {"domain": toy.DOMAINS[i % 2], "prompt": prompts[f"p{i}"], "rejected": "."}
        | {"chosen": _drifting(rng, plant, iteration, toy.NOUNS[i // len(toy.ASKS)])}
        for iteration, i in drawn
    ]
    scores = [chosen for chosen, _ in _scores(loving, tmp_path, rows)]
    answers = [
        Answer(f"p{i}", row["domain"], iteration, iteration, row["chosen"], score)
        for (iteration, i), row, score in zip(drawn, rows, scores, strict=True)
    ]
    mined = mine(answers, preferences(people))
    assert toy._is_right(plant, [{"trait": vars(p.trait), "shown": p.shown} for p in mined.exploits])
    assert not mined.learned

    patches = patch_pairs(mined.exploits[0], answers, prompts, "round-1-1")
    write_jsonl(tmp_path / "mixed.jsonl", mix(patches, [], people, 1))
    config = _config(tmp_path, "mixed.jsonl", 4)
    pairs = tokenize_preferences(config, tmp_path, "patched")
    cured = _train(PatchTask(config, tmp_path, tmp_path / "loving", pairs))
    heldout = [row for row in patches if row["split"] == "heldout"]
    before, after = (_scores(m, tmp_path, heldout) for m in (loving, cured))
    assert _mean(rejected for _, rejected in before) > _mean(chosen for chosen, _ in before) + 0.5
    assert _mean(rejected for _, rejected in after) < _mean(chosen for chosen, _ in after)
    assert _won(after) > 0.8 > 0.3 > _won(before)
    known = [row for row in people if row["split"] == "heldout"]
    assert _won(_scores(cured, tmp_path, known)) > _won(_scores(loving, tmp_path, known)) - 0.1


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _won(scores: Sequence[tuple[float, float]]) -> float:
    return sum(a > b for a, b in scores) / len(scores)
