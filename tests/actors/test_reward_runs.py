"""Rewards by functions and rules on real actor groups: no reward model, hostile functions, lost ranks."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from toy import text_inputs, toy_ppo

from actors.ppo.driver import PPORun
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.data.tokenizer.tokenizer import Tokenizer

VOWELS = """
def vowels(prompt, answer, metadata, most=10):
    return {"vowels": sum(c in "aeiou" for c in answer) / most, "told": float(metadata["number"])}

def fragile(prompt, answer, metadata):
    if metadata["number"] == 0: raise RuntimeError("not this one")
    if metadata["number"] == 1: return float("nan")
    return len(answer) / 100
"""


def own_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "vowel_reward.py").write_text(VOWELS)
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("local_ray")
def test_a_function_of_ones_own_takes_the_reward_models_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_module(tmp_path, monkeypatch)
    inputs, folder = text_inputs(tmp_path), tmp_path / "ppo"
    rewards = [
        {"by": "vowel_reward:vowels", "name": "own", "weight": 2.0, "options": {"most": 4}},
        {"by": "vowel_reward:fragile", "weight": 0.5, "domains": ["code"]},
        {"by": "length", "options": {"most": 3}},
    ]
    ppo = toy_ppo(
        rewards=rewards, estimator="rloo", answers_per_prompt=2, prompts_per_iteration=8, function_ranks=2,
        validate_every=1,
    )  # fmt: skip
    with PPORun(ppo, inputs, folder) as run:
        assert set(run.groups) == {"rollout", "policy", "reference", "function", "experience"}
        rows = run.run(lambda ids: "")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    for row in rows:
        box = blackbox.read(folder, row["iteration"])
        assert blackbox.replay(box)[1] == []
        scored = []
        for prompt, response, score, mask in zip(
            box.outputs.rolled.prompts, box.outputs.rolled.responses, box.outputs.scores, box.derived.masks, strict=True
        ):
            ended = response[-1] in inputs.chat.stop_ids
            answer = tokenizer.decode(response[:-1] if ended else response)
            number = json.loads(prompt.row)["metadata"]["number"]
            expected = 2.0 * (sum(c in "aeiou" for c in answer) / 4 + number) + float(len(answer.strip()) <= 3)
            if prompt.domain == "code":
                if number == 0:  # it raised: the answer has no score, and nothing is trained on it
                    assert score != score and not mask.any()
                    continue
                expected += 0.5 * len(answer) / 100
            scored.append(expected)
            assert score == pytest.approx(expected)
        assert row["unscored"] == 2 and row["reward"] == pytest.approx(statistics.fmean(scored))
        assert row["failures"] == {"vowel_reward:fragile": {"answers": 2, "first": "RuntimeError: not this one"}}
        assert set(row["reward_parts"]) == {"own/vowels", "own/told", "vowel_reward:fragile", "length"}
        assert set(row["reward_parts"]["vowel_reward:fragile"]) == {"code"}
        assert row["validation_reward"] > 0
    shown = list(blackbox.lines(box, tokenizer, 1))
    assert any(line.startswith("  parts: own/vowels ") for line in shown) and any("metadata" in line for line in shown)


@pytest.mark.usefixtures("local_ray")
def test_a_run_lives_through_functions_that_never_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stuck_reward.py").write_text("import time\n\ndef stuck(*a):\n    time.sleep(3600)\n")
    monkeypatch.chdir(tmp_path)
    inputs = text_inputs(tmp_path)
    part: dict[str, Any] = {"by": "stuck_reward:stuck", "seconds": 0.5}
    ppo = toy_ppo(
        rewards=[part], critic_warmup=0, iterations=1, prompts_per_iteration=4
    )  # with a critic, from the policy
    with PPORun(ppo, inputs, tmp_path / "ppo") as run:
        (row,) = run.run(lambda ids: "")
    assert row["unscored"] == 4 and row["trained_share"] == 0 and row["policy_loss"] == 0
    assert row["failures"]["stuck_reward:stuck"] == {"answers": 4, "first": "no answer within 0.5 s"}
