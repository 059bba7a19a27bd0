"""Prompts whose answers all score the same are replaced by others (`ppo.resample_rounds`).

In `make test`: Ray; the repetition in `make test-all`.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import text_inputs, toy_ppo

from actors.ppo.driver import PPORun
from actors.ppo.experience import ExperienceMaker, ExperienceSettings
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.arithmetic import further_prompts, prompt_numbers
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts

GRPO: dict[str, Any] = {
    "estimator": "grpo",
    "answers_per_prompt": 2,
    "prompts_per_iteration": 3,
    "skip_equal_groups": True,
    "resample_rounds": 2,
}
# Equal for prompts 0, 1, 2, whatever is answered; else it tells answers apart.
PICKY = """
import zlib

def picky(prompt, answer, metadata):
    return 1.0 if metadata["number"] < 3 else float(zlib.crc32(answer.encode()) % 1000)
"""


def rolled(names: list[str], version: int = 4) -> Rollouts:
    """Two answers to each prompt."""
    prompts = [Prompt(name, "helpful", [1, 2], "{}") for name in names for _ in range(2)]
    return Rollouts(prompts, [[n + 3] for n in range(len(prompts))], [torch.zeros(1) for _ in prompts], version)


def told(verdict: Any) -> Any:
    """A function's verdict as its process sends it."""
    return verdict if isinstance(verdict, str) else {"": verdict}


def test_the_first_groups_whose_scores_differ_are_chosen_over_all_rounds() -> None:
    ppo = toy_ppo(**GRPO, rewards=[{"by": "m:f"}])
    maker = ExperienceMaker(0, 1, ExperienceSettings(ppo, None))
    first, second = rolled(["a", "b", "c"]), rolled(["d", "e", "f"])
    # a: equal; b: differ; c: one without a verdict; d: differ; e: equal; f: differ
    verdicts = [[1.0, 1.0, 0.0, 1.0, "late", 1.0], [0.0, 2.0, 3.0, 3.0, 5.0, 4.0]]
    # Answers of a round lie on two ranks of the engines, verdicts on two of the functions.
    halves = [[part.only(range(4)), part.only(range(4, 6))] for part in (first, second)]
    scored = [[{n: {"m:f": told(v[n])} for n in range(r, 6, 2)} for r in range(2)] for v in verdicts]
    counts = [{"rollout": 2, "function": 2}] * 2
    payloads = [*halves[0], *scored[0], *halves[1], *scored[1]]
    answers, figures = maker.choose("rollout", counts, *payloads)
    assert [p.id for p in answers.prompts] == ["b", "b", "d", "d", "f", "f"] and answers.version == 4
    assert answers.responses == [[5], [6], [3], [4], [7], [8]]
    assert (figures["asked"], figures["kept"]) == (6, 3)
    rewards, _ = maker.choose("function", counts, *payloads)
    assert rewards == {n: {"m:f": {"": v}} for n, v in enumerate([0.0, 1.0, 0.0, 2.0, 5.0, 4.0])}
    alone, figures = maker.choose("rollout", counts[:1], *payloads[:4])
    assert [p.id for p in alone.prompts] == ["b", "b"] and (figures["asked"], figures["kept"]) == (3, 1)
    none, figures = maker.choose(
        "rollout", counts[:1], *halves[0], *[{n: {"m:f": {"": 1.0}} for n in part} for part in scored[0]]
    )
    assert [p.id for p in none.prompts] == ["a", "a"] and figures["kept"] == 0  # something must reach the learners


def test_further_prompts_are_never_those_asked_before_and_end_with_the_prompts() -> None:
    for iteration in range(20):
        asked = prompt_numbers(iteration, 3, 8, 7)
        before = list(asked)
        for turn in range(1, 4):
            more = further_prompts(iteration, turn, 2, 8, asked, 7)
            assert more == further_prompts(iteration, turn, 2, 8, asked, 7)
            asked += more
        assert len(set(asked)) == len(asked) - (len(before) - len(set(before)))
        assert set(asked) == set(range(8)) and not further_prompts(iteration, 5, 2, 8, asked, 7)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])  # each run starts its groups: 20 s
def test_a_run_trains_on_full_batches_of_groups_that_differ_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    (tmp_path / "picky_reward.py").write_text(PICKY)
    monkeypatch.chdir(tmp_path)
    inputs = text_inputs(tmp_path)
    ppo = toy_ppo(**GRPO, rewards=[{"by": "picky_reward:picky"}], iterations=1 + times, engine_precision="bf16",
                  correction="truncate", logprob_gap_bound=1.0)  # fmt: skip
    models = set()
    for number in range(times):
        with PPORun(ppo, inputs, tmp_path / str(number)) as run:
            rows = run.run(lambda ids: "")
        models.add((tmp_path / str(number) / "model" / "model.safetensors").read_bytes())
    assert len(models) == 1
    for row in rows:
        box = blackbox.read(tmp_path / "0", row["iteration"])
        assert blackbox.replay(box)[1] == []
        asked = [json.loads(inputs.prompts[n].row)["metadata"]["number"]
                 for n in prompt_numbers(row["iteration"], 3, len(inputs.prompts), inputs.seed)]  # fmt: skip
        trained = [json.loads(prompt.row)["metadata"]["number"] for prompt in box.outputs.rolled.prompts]
        assert len(trained) == 6 and len(set(trained)) == 3 and min(trained) >= 3
        assert {n for n in asked if n >= 3} <= set(trained)
        assert row["kept_prompts"] == 3 and row["asked_prompts"] >= 3 + sum(n < 3 for n in asked)
        assert row["trained_share"] == 1.0
        # The engine computes in bf16, the policy in fp32: they agree roughly, and not exactly.
        assert 0 < row["logprob_gap"] < 0.2 and math.isfinite(row["mismatch_kl"])
    assert max(row["asked_prompts"] for row in rows) > 3
