"""A small model learns arithmetic from a verifier's verdicts alone, by any estimator, over seeds.

    python benchmarks/verifiable.py [--estimator grpo|gae|...] [--seeds 3] [--iterations 60] [--out DIR]
    ray job submit --working-dir . -- python benchmarks/verifiable.py

The task: `a+b=` for all 55 sums below ten; the answer is one digit and the end. A model of 0.2 million parameters
learns the sums, and then nearly forgets them: its last steps are on random digits, so that one answer in eight or so is
right. Its weights still hold more than its answers show, as those of a pre-trained model do. Then PPO's groups train
it: the reward is the rule `mathematics`, and no right answer is shown. grpo has 8 answers to each of 32 prompts, gae
one to each of 256 prompts and a critic that starts from the policy's body. Printed: for each seed the share of right
answers before the first step and in the last five iterations, and seconds an iteration; then whether all rose from
below 0.2 to above 0.8. DIR/verifiable.html has the curves.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.config.alignment import Estimator, PPOConfig
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import save_internlm2
from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page

SHAPE = Shape(vocab_size=288, layers=2, hidden=96, kv_heads=2, queries_per_kv=2, head_dim=24, mlp_hidden=192)
ANSWERS, GROUP, WINDOW = 256, 8, 5
TRUE_STEPS, NOISY_STEPS, BATCH = 150, 100, 50
NOISE = 0.92  # share of random digits among the answers of the noisy steps
SCALE = 5.0  # the initial matrices are made for widths in the thousands
Rows = list[dict[str, Any]]


def task(tokenizer: Tokenizer) -> list[Prompt]:
    """All sums below ten, with the right answer as metadata."""
    prompts = []
    for a in range(10):
        for b in range(10 - a):
            messages = [{"role": "user", "content": f"{a}+{b}="}]
            row = json.dumps({"prompt": messages, "metadata": {"answer": str(a + b)}})
            prompts.append(Prompt(f"{a}+{b}", "maths", encode_chat(tokenizer, messages, True).ids, row))
    return prompts


def forgetful(prompts: Sequence[Prompt], tokenizer: Tokenizer, seed: int) -> CausalLM:
    """A model that learned the sums and was then trained on random digits, until few of its answers are right."""
    model, rng = CausalLM(SHAPE), random.Random(seed)
    initialize(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(SCALE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step in range(TRUE_STEPS + NOISY_STEPS):
        noisy = step >= TRUE_STEPS
        optimizer.param_groups[0]["lr"] = 3e-4 if noisy else 3e-3
        sequences, labels = [], list[int]()
        for prompt in rng.sample(list(prompts), BATCH):
            right = json.loads(prompt.row)["metadata"]["answer"]
            digit = str(rng.randrange(10)) if noisy and rng.random() < NOISE else right
            answer = [*tokenizer.encode(digit), tokenizer.turn_end_id]
            sequences.append(prompt.ids + answer)
            labels += [*[IGNORE] * (len(prompt.ids) - 1), *answer, IGNORE]
        loss = model(Packed.of(sequences), torch.tensor(labels)).sum() / (2 * BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def settings(estimator: Estimator, iterations: int, **others: Any) -> PPOConfig:
    """One rank a group, answers by the torch generator. others: settings that take the place of these."""
    ranks = dict.fromkeys(("policy_ranks", "critic_ranks", "reference_ranks", "rollout_engines"), 1)
    group = 1 if estimator == "gae" else GROUP
    return PPOConfig.model_validate(
        {
            **ranks,
            "rewards": [{"by": "mathematics"}],
            "estimator": estimator,
            "answers_per_prompt": group,
            "prompts_per_iteration": ANSWERS // group,
            "iterations": iterations,
            "critic_warmup": 3,
            "normalize_advantages": estimator == "gae",
            "mini_batches": 4,
            "max_prompt_tokens": 64,
            "max_new_tokens": 4,
            "top_p": 1.0,
            "kl_coefficient": 0.0,
            "policy_lr": 5e-4,
            "critic_lr": 1e-3,
            "precision": "fp32",
            "rollout_backend": "torch",
            "checkpoint_every": 1000,
            "validate_every": None,
            **others,
        }
    )


def play(folder: Path, ppo: PPOConfig, seed: int, rollout: type | None = None) -> Rows:
    """Metric rows of a run. rollout: an actor class in the place of `Rollout`."""
    from actors.ppo.driver import PPORun
    from actors.ppo.roles import Inputs, ppo_roles
    from actors.scoring import chat_ids
    from ilm_ray.alignment.reward.conditional import Conditions

    tokenizer = Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size)
    tokenizer.save(folder / "tokenizer")
    prompts = task(tokenizer)
    save_internlm2(forgetful(prompts, tokenizer, seed), folder / "model")
    inputs = Inputs(
        policy=folder / "model",
        reward=None,
        prompts=prompts,
        chat=chat_ids(tokenizer, Conditions({}, None)),
        pretrain=None,
        reward_context=128,
        micro_tokens=16_384,
        loss_chunk=4096,
        seed=seed,
        tokenizer=folder / "tokenizer",
    )
    roles = ppo_roles(ppo, inputs, folder / "ppo")
    roles = [replace(role, actor=rollout) if rollout and role.name == "rollout" else role for role in roles]
    with PPORun(ppo, inputs, folder / "ppo", roles=roles) as run:
        return run.run(tokenizer.decode)


def summed_up(rows: Rows) -> dict[str, float]:
    """Share of right answers of the policy that has taken no step and of the last, and seconds of a warm iteration."""
    return {
        "first": round(statistics.fmean(row["reward"] for row in rows if row["version"] == rows[0]["version"]), 4),
        "last": round(statistics.fmean(row["reward"] for row in rows[-WINDOW:]), 4),
        "seconds": round(statistics.median(row["seconds"]["all"] for row in rows[2:]), 3),
    }


def main() -> None:
    """Play all seeds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimator", default="grpo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--out", type=Path, help="where runs and picture go (default: a temporary folder)")
    arguments = parser.parse_args()
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="verifiable-"))).absolute()
    import ray

    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    own = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "num_cpus": 4, "include_dashboard": False}
    ray.init(**own, log_to_driver=False, runtime_env={"env_vars": env})
    played = dict[int, Rows]()
    try:
        for seed in range(arguments.seeds):
            folder = out / f"{arguments.estimator}-{seed}"
            played[seed] = play(folder, settings(arguments.estimator, arguments.iterations), seed)
            print(json.dumps({"seed": seed, **summed_up(played[seed])}), flush=True)
    finally:
        ray.shutdown()
    lines = [
        Series(f"seed {seed}", [(float(r["iteration"]), r["reward"]) for r in rows]) for seed, rows in played.items()
    ]
    caption = f"Share of right answers, {arguments.estimator}"
    figure = page.figure(caption, line_chart(caption, lines, "iteration"))
    (out / "verifiable.html").write_text(page.page("Verifiable arithmetic", figure), encoding="utf-8")
    ends = [summed_up(rows) for rows in played.values()]
    learnt = all(end["first"] < 0.2 and end["last"] > 0.8 for end in ends)
    print(json.dumps({"estimator": arguments.estimator, "learnt": learnt, "picture": str(out / "verifiable.html")}))
    sys.exit(0 if learnt else 1)


if __name__ == "__main__":
    main()
