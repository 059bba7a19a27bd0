"""SmolLM2-135M-Instruct through SFT, reward model and PPO on real data; each stage is killed once and goes on.

    make real-model
    python benchmarks/real_model_road.py [--data DIR] [--run runs/real-model] [--stages sft,reward,ppo]

Data: `<data>/sft/llama_factory` (alpaca, short answers) and `<data>/prefs` (short pairs of helpfulness and
harmlessness, read as benchmarks/conditional_reward.py reads them); PPO answers the pairs' prompts. The driver of each
stage gets SIGKILL as soon as its first checkpoint is committed, and the same command is given again. Claims: SFT
lowers the loss on the conversations held out, the reward model's accuracy on held-out pairs is above chance by more
than three standard errors, PPO raises the reward of answers to held-out prompts while KL stays below `KL_BOUND`.
Printed: these figures, seconds of both halves, most memory of the process tree. About 40 minutes on two cores.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.conditional_reward import preferences
from benchmarks.processes import TreePeak, run_measured, tree
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.run.manifest import load

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".real-model" / "SmolLM2-135M-Instruct"
DOMAINS = ("helpful", "harmless")
CONVERSATIONS, ANSWER_CHARS = 200, 400
KL_BOUND = 20.0  # nats an answer
DEADLINE_S, GONE_S = 3600, 150
WORDS = (
    "base={model} from=sft sft.data={inputs}/chat.jsonl reward.data={inputs}/pairs.jsonl "
    "ppo.prompts={inputs}/prompts.jsonl"
)
SETTINGS = """
input: null
training: {workers: 1, precision: bf16, log_every: 1, micro_tokens: 2048, loss_chunk: 1024}
sft: {epochs: 1, context: 512, batch_tokens: 4096, max_lr: 2.0e-5, pretrain_share: 0, checkpoint_every: 2}
reward: {epochs: 2, context: 512, batch_tokens: 4096, max_lr: 5.0e-5, min_lr: 5.0e-6, checkpoint_every: 5}
ppo: {iterations: 10, critic_warmup: 2, prompts_per_iteration: 32, mini_batches: 2, max_prompt_tokens: 128,
      max_new_tokens: 48, policy_lr: 1.0e-5, critic_lr: 2.0e-5, kl_coefficient: 0.02, pretrain_coefficient: 0,
      policy_ranks: 1, validate_every: 5, validation_prompts: 48, checkpoint_every: 2, precision: fp32,
      deadline_s: 900}
online: {rounds: 1, comparisons: 0}
evaluation: {heldout_prompts: 96}
ray: {dashboard: false, object_store_mb: 1500}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "real-model")
    parser.add_argument("--stages", default="sft,reward,ppo")
    arguments = parser.parse_args()
    run = arguments.run.absolute()
    inputs = run.with_name(f"{run.name}-inputs")
    write_inputs(arguments.data, inputs)
    for stage in arguments.stages.split(","):
        print(json.dumps({"stage": stage, **killed_once(command(stage, run, inputs), run / stage)}), flush=True)
        print(json.dumps({"stage": stage, **figures(stage, run, inputs)}), flush=True)
    print(json.dumps({"stage": "pipeline", **gain(command("pipeline", run, inputs))}))


def command(job: str, run: Path, inputs: Path) -> list[str]:
    """The command line of a job of the run."""
    words = WORDS.format(model=MODEL, inputs=inputs).split(" ")
    settings = ["--run-dir", str(run), "--config", str(inputs / "settings.yaml")]
    return [sys.executable, f"jobs/{job}.py", *settings, *words]


def gain(words: Sequence[str]) -> dict[str, Any]:
    """The rest of the run, a look at its round and the evaluation: rewards before and after PPO."""
    finished = run_measured(words, DEADLINE_S)
    summary = json.loads(finished.stdout.splitlines()[-1])["evaluation"]
    holds = summary["reward_gain_in_standard_errors"] > 2 and summary["kl_nats"] < KL_BOUND
    return {"seconds": round(finished.seconds), **summary, "holds": holds}


def write_inputs(data: Path, folder: Path) -> None:
    """Conversations, pairs and prompts as JSON Lines in `folder`, and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    alpaca = json.loads((data / "sft" / "llama_factory" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    short = [row for row in alpaca if 0 < len(row["output"]) <= ANSWER_CHARS][:CONVERSATIONS]
    write_jsonl(folder / "chat.jsonl", [_conversation(row) for row in short])
    pairs = [row for row in preferences(data / "prefs", seed=0) if row["domain"] in DOMAINS]
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "prompts.jsonl", _prompts(pairs))


def _conversation(row: dict[str, str]) -> dict[str, Any]:
    question = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
    contents = (("user", question), ("assistant", row["output"]))
    return {"messages": [{"role": role, "content": content} for role, content in contents]}


def _prompts(pairs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each prompt of the pairs once, in the split of its pairs."""
    rows = {row["prompt"][0]["content"]: row for row in pairs}
    return [
        {"id": number, "domain": row["domain"], "prompt": row["prompt"], "split": row["split"]}
        for number, row in enumerate(rows.values())
    ]


def killed_once(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a stage's job, end its driver at the first checkpoint, run it again to its end."""
    started = time.monotonic()
    first = _start(words)
    with TreePeak(first.pid) as peak:
        _wait_for_checkpoint(first, folder / "checkpoints")
    family = tree(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(family, timeout=GONE_S)  # its Ray must vanish by itself
    if alive:
        raise SystemExit(f"{folder.name}: {len(alive)} processes outlived their driver")
    killed_after, started = time.monotonic() - started, time.monotonic()
    second = _start(words)
    with TreePeak(second.pid) as again:
        if second.wait(DEADLINE_S):
            raise SystemExit(f"{words[1]} ended with exit code {second.returncode}; {folder.parent}/error.txt says why")
    memory = max(peak.peak_mb, again.peak_mb)
    return {
        "killed_after_s": round(killed_after),
        "then_s": round(time.monotonic() - started),
        "peak_gib": round(memory / 1024, 1),
    }


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)


def _wait_for_checkpoint(process: subprocess.Popen[bytes], checkpoints: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not any(checkpoints.glob("*/COMMIT")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no checkpoint came into {checkpoints} (exit code {process.returncode})")
        time.sleep(0.2)


def figures(stage: str, run: Path, inputs: Path) -> dict[str, Any]:
    """The stage's own figures on held-out data, and whether its claim holds."""
    manifest = load(run / stage)
    if manifest is None:
        raise SystemExit(f"{run / stage} has no manifest")
    if stage == "ppo":
        return _ppo_figures(list(read_jsonl(run / "ppo" / "metrics.jsonl")))
    evaluations = manifest.metrics["evaluations"]
    if stage == "sft":
        losses = [row["heldout_loss"] for row in evaluations]
        return {"heldout_loss": losses, "holds": losses[-1] < losses[0]}
    overall = evaluations[-1]["figures"]["all"]["conditional"]
    pairs = sum(row["split"] == "heldout" for row in read_jsonl(inputs / "pairs.jsonl"))
    error = math.sqrt(0.25 / pairs)
    accuracy = {domain: kinds["conditional"] for domain, kinds in manifest.metrics["accuracy"].items()}
    above = (overall["accuracy"] - 0.5) / error
    return {"accuracy": accuracy, "pairs": pairs, "errors_above_chance": round(above, 1), "holds": above > 3}


def _ppo_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kl = max(row["kl"] for row in rows)
    return {"reward": [round(row["reward"], 3) for row in rows], "most_kl": round(kl, 2), "holds": kl < KL_BOUND}


if __name__ == "__main__":
    main()
