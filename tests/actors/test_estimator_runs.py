"""Estimators without a critic on real actor groups: which groups there are, and that runs repeat bit for bit."""

from pathlib import Path
from typing import Any

import pytest
from toy import toy_inputs, toy_mix, toy_ppo

from actors.ppo.driver import PPORun
from actors.ppo.engines import choose_backend
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.config.alignment import PPOConfig

GRPO: dict[str, Any] = {
    "estimator": "grpo",
    "answers_per_prompt": 3,
    "prompts_per_iteration": 3,
    "kl_in": "loss",
    "kl_estimator": "k3",
    "loss_mean": "sequences",
    "clip_range_high": 0.28,
    "correction": "truncate",
    "mini_batches": 2,
}


def finished(ppo: PPOConfig, inputs: Any, folder: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Rows without times, and the model."""
    with PPORun(ppo, inputs, folder) as run:
        rows = run.run(lambda ids: "")
        assert "critic" not in run.groups
    for row in rows:
        del row["seconds"], row["weight_bytes"]
    return rows, (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow  # vLLM compiles for most of a minute
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("temperature", [0.6, 1.4])
def test_vllms_log_probabilities_have_its_temperature(tmp_path: Path, temperature: float) -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    ppo = toy_ppo(**GRPO, temperature=temperature, rollout_backend="vllm", iterations=2, logprob_gap_bound=1e-4)
    rows, _ = finished(ppo, toy_inputs(tmp_path, toy_mix(tmp_path)), tmp_path / "ppo")
    assert all(row["logprob_gap"] < 1e-5 for row in rows) and rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.usefixtures("local_ray")
def test_grpo_places_no_critic_and_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    ppo, inputs = toy_ppo(**GRPO, iterations=3), toy_inputs(tmp_path, toy_mix(tmp_path))
    rows, model = finished(ppo, inputs, tmp_path / "whole")
    assert [row["warmup"] for row in rows] == [False] * 3  # `critic_warmup` is the critic's
    assert [row["version"] for row in rows] == [0, 1, 2]
    for row in rows:
        box = blackbox.read(tmp_path / "whole", row["iteration"])
        largest, differences = blackbox.replay(box)
        assert not differences and max(largest.values()) <= 1e-6
        ids = [prompt.id for prompt in box.outputs.rolled.prompts]
        assert len(ids) == 9 and all(ids.count(name) == 3 for name in ids)
        # Within a group advantages add up to nothing, whatever the scores are.
        for name in set(ids):
            own = [float(a[0]) for a, other in zip(box.derived.advantages, ids, strict=True) if other == name]
            assert abs(sum(own)) < 1e-5
        assert row["mismatch_kl"] == pytest.approx(0.0, abs=1e-5) and "value_loss" not in row
    last = (tmp_path / "whole" / "checkpoints").iterdir()
    assert sorted(path.name for path in next(last).iterdir()) == ["COMMIT", "policy"]
    (tmp_path / "whole" / "model" / "model.safetensors").unlink()
    assert finished(ppo, inputs, tmp_path / "whole") == (rows, model)
