"""PPO of a finished run with and without the pre-training loss: reward, KL, and what becomes of language modelling.

    python benchmarks/ppo_mix.py --run runs/demo [--seeds 3] [--iterations 40] [--out DIR]

From the run's SFT and reward models, five groups (policy: two ranks, ZeRO 2; critic: two ranks, ZeRO 3), 32 prompts of
up to 64 new tokens. Each seed plays twice: with the report's coefficient of 0.5, and with 1e-9, so that the loss on the
same pre-training sequences is measured and pulls at nothing. Sequences differ more than policies do, so the loss is
told as its rise above that of the SFT model on the same sequences. Claims (report section 4.2.3): reward rises by more
than three standard errors over seeds, KL stays bounded, exactly `critic_warmup` iterations leave the policy alone, and
the loss on pre-training data does not rise with the mix and does without. Printed: all of it, held-out bits per byte of
the SFT model and of both results, seconds of a warm iteration. DIR/mix.html has the curves.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ilm_ray.alignment.pretrain_data import pretrain_mix
from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.evaluation.pipeline import heldout_measures
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import load_causal
from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import run_stage
from jobs import ppo
from jobs.frame.cluster import LocalRay

ARMS = {"with the mix": 0.5, "without": 1e-9}
NEEDS = ("tokenizer", "tokens", "long_text", "pretrain", "sft", "reward")
WARMUP, WINDOW = 3, 5  # critic-only iterations; iterations that a first and a last figure are means of
SETTINGS = (
    f"critic_warmup={WARMUP}",
    "prompts_per_iteration=32",
    "max_new_tokens=64",
    "policy_ranks=2",
    "policy_zero_stage=2",
    "critic_ranks=2",
    "critic_zero_stage=3",
    "validate_every=null",
)
Rows = list[dict[str, Any]]


def configuration(seed: int, arm: str, iterations: int) -> Config:
    chosen = [f"ppo.{setting}" for setting in (*SETTINGS, f"iterations={iterations}")]
    return load_config("nano", None, [*chosen, f"ppo.pretrain_coefficient={ARMS[arm]}", f"seed={seed}"])


def finished_run(run: Path) -> Path:
    """The folder as an absolute path. Raises UserError where a stage that PPO needs is not finished there."""
    run = run.absolute()
    if missing := [name for name in NEEDS if not (run / name / "manifest.json").exists()]:
        raise UserError(f"--run={run} has no finished {missing[0]}; run `make demo RUN_DIR={run}` first")
    return run


def play(run: Path, folder: Path, config: Config) -> tuple[Rows, dict[str, float]]:
    """Metric rows of PPO in `folder`, and held-out bits per byte of its result."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEEDS:
        if not (folder / name).exists():
            (folder / name).symlink_to(run / name, target_is_directory=True)
    run_stage(ppo.STAGE, config, folder, Journal(folder / "journal.jsonl"))
    rows = [json.loads(line) for line in (folder / "ppo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, heldout_measures({"ppo": folder / "ppo" / "model"}, run, config)["ppo"]["bits_per_byte"]


@torch.no_grad()
def tell_rise(rows: Rows, run: Path, config: Config) -> None:
    """Add `pretrain_rise` to rows: the pre-training loss less that of the SFT model on the same sequences."""
    model, context = load_causal(run / "sft" / "model").eval(), config.ppo.pretrain_context
    mixture = pretrain_mix(config, config.ppo.pretrain_mixture, context, run).open(config.seed + 300)
    cursor = 0
    for row in rows:
        if row.get("pretrain_loss") is None:
            continue
        count = round(row["pretrain_tokens"] / context)  # a sequence has a label for all but a few of its tokens
        batch, labels = mixture.pack([p for n in range(cursor, cursor + count) for p in mixture.pieces(n)])
        tokens = int((labels != IGNORE).sum())
        if tokens != row["pretrain_tokens"]:
            raise RuntimeError(f"iteration {row['iteration']} was trained on other sequences than {cursor}, ...")
        row["pretrain_rise"] = row["pretrain_loss"] - float(model(batch, labels).sum()) / tokens
        cursor += count


def first_and_last(rows: Rows, key: str) -> tuple[float, float]:
    """Means over the first and the last WINDOW iterations that know `key`, warm-up left out."""
    values = [row[key] for row in rows if not row["warmup"] and row.get(key) is not None]
    return statistics.fmean(values[:WINDOW]), statistics.fmean(values[-WINDOW:])


def summed_up(played: dict[str, list[Rows]]) -> dict[str, Any]:
    """The figures of the claims; means with their standard errors over seeds."""
    rises = [last - first for rows in played["with the mix"] for first, last in [first_and_last(rows, "reward")]]
    rows_of_all = [row for runs in played.values() for rows in runs for row in rows]
    grown = {arm: [first_and_last(rows, "pretrain_rise")[1] for rows in runs] for arm, runs in played.items()}
    warm = [row["seconds"]["all"] for row in rows_of_all if row["iteration"] > WARMUP + 1]
    return {
        "reward_rise": statistics.fmean(rises),
        "reward_rise_standard_errors": statistics.fmean(rises) / standard_error(rises),
        "kl_max": {arm: max(row["kl"] for rows in runs for row in rows) for arm, runs in played.items()},
        "critic_only_iterations": sorted(
            {sum(row["warmup"] for row in rows) for runs in played.values() for rows in runs}
        ),
        "pretrain_rise_at_the_end": {arm: [statistics.fmean(v), standard_error(v)] for arm, v in grown.items()},
        "warm_iteration_s": statistics.median(warm),
        "logprob_gap_max": max(row["logprob_gap"] for row in rows_of_all),
    }


def standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Running means over WINDOW points, at the last one's place."""
    return [
        (points[i][0], statistics.fmean(y for _, y in points[i - WINDOW + 1 : i + 1]))
        for i in range(WINDOW - 1, len(points))
    ]


def curves(played: dict[str, list[Rows]], key: str, caption: str) -> page.Html:
    """A line for each arm: the mean over seeds, smoothed."""
    lines = []
    for arm, runs in played.items():
        known = [[row for row in rows if row.get(key) is not None] for rows in runs]
        points = [
            (float(rows[0]["iteration"]), statistics.fmean(row[key] for row in rows))
            for rows in zip(*known, strict=True)
        ]
        lines.append(Series(arm, smooth(points)))
    return page.figure(caption, line_chart(caption, lines, "iteration"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run folder whose reward stage is finished")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--out", type=Path, help="where runs and picture go (default: a temporary folder)")
    arguments = parser.parse_args()
    run = finished_run(arguments.run)
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="ppo-mix-"))).absolute()
    played: dict[str, list[Rows]] = {arm: [] for arm in ARMS}
    bits: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with LocalRay(load_config("nano", None, ["ray.dashboard=false"])):
        plain = load_config("nano", None, [])
        before = heldout_measures({"sft": run / "sft" / "model"}, run, plain)["sft"]["bits_per_byte"]
        for seed in range(arguments.seeds):
            for number, arm in enumerate(ARMS):
                config = configuration(seed, arm, arguments.iterations)
                rows, after = play(run, out / f"seed-{seed}-{number}", config)
                tell_rise(rows, run, config)
                played[arm].append(rows)
                bits[arm].append(after)
                reward, rise = first_and_last(rows, "reward"), first_and_last(rows, "pretrain_rise")
                print(
                    f"seed {seed}, {arm}: reward {reward[0]:.2f} -> {reward[1]:.2f}, pre-training loss above that of "
                    f"SFT {rise[0]:+.3f} -> {rise[1]:+.3f}, KL at most {max(row['kl'] for row in rows):.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    figures = (
        ("reward", "Reward, mean over seeds"),
        ("kl", "KL to the SFT model, nats a response"),
        ("pretrain_rise", "Loss on pre-training data above that of the SFT model, nats a token"),
    )
    charts = page.join(curves(played, key, caption) for key, caption in figures)
    (out / "mix.html").write_text(page.page("PPO with and without pre-training loss", charts), encoding="utf-8")
    means = {arm: {name: statistics.fmean(row[name] for row in rows) for name in before} for arm, rows in bits.items()}
    print(f"picture: {out / 'mix.html'}", file=sys.stderr)
    print(json.dumps({**summed_up(played), "bits_per_byte": {"SFT": before, **means}}))


if __name__ == "__main__":
    main()
