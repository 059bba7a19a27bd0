"""GRPO on SmolLM2-135M-Instruct with a reward for form and result: sums, answered in the form `#### N`.

    make real-model
    python benchmarks/real_model_grpo.py [--run runs/grpo] [--iterations 20]

No reward model and no critic: half a point for an answer that ends with `#### N`, one for the right number there. Sums
of two numbers below 20; a sixth of them is held out. Printed: reward of the held-out prompts before and after, its gain
in standard errors, both parts in the first and last three iterations, KL, seconds, most memory. Claim: the reward of
held-out prompts rises by more than two standard errors.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import run_measured
from benchmarks.real_model_road import DEADLINE_S, MODEL, ROOT
from ilm_ray.base.jsonl import read_jsonl, write_jsonl

WINDOW = 3
SETTINGS: dict[str, Any] = {
    "input": None,
    "base": str(MODEL),
    "start": "ppo",
    "training": {"workers": 1, "micro_tokens": 2048, "loss_chunk": 1024},
    "ppo": {
        "rewards": [
            {"by": "form", "weight": 0.5, "options": {"pattern": r".*#### -?[0-9]+[.]?"}},
            {"by": "mathematics"},
        ],
        **{"estimator": "grpo", "answers_per_prompt": 8, "prompts_per_iteration": 4, "mini_batches": 2},
        **{"skip_equal_groups": True, "resample_rounds": 1, "loss_mean": "longest", "clip_range_high": 0.28},
        **{"kl_in": "loss", "kl_estimator": "k3", "kl_coefficient": 0.001, "policy_lr": 2e-5, "top_p": 1.0},
        **{"max_prompt_tokens": 96, "max_new_tokens": 32, "pretrain_coefficient": 0, "precision": "fp32"},
        **{"policy_ranks": 1, "reference_ranks": 1, "rollout_engines": 1, "validate_every": None},
        **{"checkpoint_every": 10, "deadline_s": 900},
    },
    "evaluation": {"heldout_prompts": 60},
    "ray": {"dashboard": False, "object_store_mb": 1500},
}


def prompts() -> list[dict[str, Any]]:
    """All sums of two numbers from 1 to 19, in a fixed order."""
    rows = []
    for number, (a, b) in enumerate((a, b) for a in range(1, 20) for b in range(1, 20)):
        text = f"What is {a} + {b}? End your answer with #### and the number."
        split = "heldout" if (7 * a + 3 * b) % 6 == 0 else "train"
        prompt = [{"role": "user", "content": text}]
        row = {"id": number, "domain": "maths", "prompt": prompt, "split": split, "metadata": {"answer": str(a + b)}}
        rows.append(row)
    return rows


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of reward and parts over iterations."""
    parts = {name for row in rows for name in row["reward_parts"]}
    found = {name: statistics.fmean(row["reward_parts"][name]["maths"] for row in rows) for name in sorted(parts)}
    found["reward"] = statistics.fmean(row["reward"] for row in rows)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "grpo")
    parser.add_argument("--iterations", type=int, default=20)
    arguments = parser.parse_args()
    run = arguments.run.absolute()
    inputs = run.with_name(f"{run.name}-inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    write_jsonl(inputs / "prompts.jsonl", prompts())
    (inputs / "settings.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")  # JSON is YAML
    words = ["--run-dir", str(run), "--config", str(inputs / "settings.yaml")]
    words += [f"ppo.prompts={inputs / 'prompts.jsonl'}", f"ppo.iterations={arguments.iterations}"]
    trained = run_measured([sys.executable, "jobs/ppo.py", *words], DEADLINE_S)
    rows = list(read_jsonl(run / "ppo" / "metrics.jsonl"))
    first, last = means(rows[:WINDOW]), means(rows[-WINDOW:])
    print(json.dumps({"first": first, "last": last, "seconds": round(trained.seconds)}), flush=True)
    measured = run_measured([sys.executable, "jobs/evaluation.py", *words], DEADLINE_S)
    summary = json.loads(measured.stdout.splitlines()[-1])
    holds = summary["reward_gain_in_standard_errors"] > 2
    print(json.dumps({**summary, "peak_gib": round(trained.peak_mb / 1024, 1), "holds": holds}))


if __name__ == "__main__":
    main()
