"""A run folder as the stages leave it, with plausible figures and hostile text wherever text comes from outside."""

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.alignment.reward.metrics import pair_figures, pair_sums
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.longtext.thresholds import read_thresholds
from ilm_ray.data.tokens.mixture import Drawn
from ilm_ray.run.manifest import Manifest, commit
from tests.made_text import HOSTILE, make_documents, write_text_run

DOMAINS = ("helpful", "harmless", "code", "maths")
SOURCES = ("en", "zh", "code")
PHASES = (("short_context", 260), ("long_context", 60), ("enhancement", 40))


@pytest.fixture
def fake_run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "nano-demo")


def make_run(run: Path) -> Path:
    rng = random.Random(7)
    run.mkdir(parents=True)
    write_text_run(run, make_documents(240))
    _pretrain(run / "pretrain", rng)
    _small_stages(run, rng)
    _ppo(run / "ppo", rng)
    _online(run)
    _evaluation(run / "evaluation")
    _long_text(run / "long_text", rng)
    write_jsonl(
        run / "decontamination" / "removed-text-00000.jsonl.zst",
        [
            {"id": n, "stage": "text", "url": HOSTILE, "benchmark": "gsm8k/test.jsonl", "item": str(n), "share": 0.9}
            | {"passage": HOSTILE, "item_text": "How many apples are left?"}
            for n in range(3)
        ],
    )
    _manifests(run)
    return run


def _pretrain(folder: Path, rng: random.Random) -> None:
    rows, evaluations, step = [], [], 0
    bits = dict(zip(SOURCES, (8.9, 9.4, 8.2), strict=True))
    for phase, steps in PHASES:
        evaluations.append({"step": step, "phase": phase, "when": "start", "bits_per_byte": dict(bits)})
        for local in range(10, steps + 1, 10):
            step += 10
            rows.append(
                {
                    "phase": phase,
                    "step": step,
                    "loss": 7.6 * math.exp(-step / 90) + 3.1 + rng.gauss(0, 0.06),
                    "lr": 3e-3 * (0.1 + 0.9 * (1 - local / steps)),
                    "tokens": step * 4096,
                    "tokens_per_second": 5600 + rng.gauss(0, 160),
                    "grad_norm": 0.6 + rng.random() / 3,
                }
            )
        bits = {
            k: v * f
            for (k, v), f in zip(bits.items(), {260: (0.31, 0.42, 0.28)}.get(steps, (0.96, 0.95, 0.97)), strict=True)
        }
        evaluations.append({"step": step, "phase": phase, "when": "end", "bits_per_byte": dict(bits)})
    folder.mkdir()
    _plain(folder / "metrics.jsonl", rows, cut=True)
    _plain(folder / "evaluations.jsonl", evaluations)
    _troubles(folder)


def _troubles(folder: Path) -> None:
    """A bad step, a worker that was killed, checkpoints measured beside training, a look inside a step."""
    spike = {"step": 120, "incident": "spike", "why": f"loss 9.1 {HOSTILE}", "action": "its batch is left out"}
    _plain(folder / "incidents.jsonl", [spike | {"skipped": [[120], [], []]}])
    bits = dict.fromkeys(SOURCES, 3.0)
    _plain(
        folder / "beside.jsonl",
        [{"step": step, "bits_per_byte": bits} for step in (60, 180)] + [{"step": 120, "error": "it is gone"}],
    )
    layers = {layer: {"weight": 1.0, "gradient": 0.1} for layer in ("tok_embeddings", "layers.0", "norm", "output")}
    _plain(folder / "looks.jsonl", [{"step": 100, "look": {"communication_share": 0.25, "layers": layers}}])
    (folder / "attempts").mkdir()
    fault = {"attempt": 0, "category": "worker_killed", "step": 77, "line": f"worker killed at step 77 {HOSTILE}"}
    _plain(folder / "attempts" / "diagnoses.jsonl", [fault])


def _long_text(folder: Path, rng: random.Random) -> None:
    """Long documents of web and code: some fall by their statistics, some at a joint."""
    rows = []
    for number in range(24):
        domain, language = ("code", "code") if number % 4 == 3 else ("web", "en")
        row = {"id": number, "url": HOSTILE, "dump": "d", "language": language, "domain": domain, "source": language}
        row |= {"split": "train", "bytes": 40_000 + number, "excerpt": HOSTILE, "conjunction_ratio": rng.random() / 10}
        if domain == "web" and row["conjunction_ratio"] < 0.02:
            row |= {"drop_rule": "conjunction_ratio", "drop_value": row["conjunction_ratio"], "threshold": 0.02}
        else:
            difference = rng.gauss(0.05, 0.05)
            row |= {"perplexity_difference": difference, "ending": HOSTILE, "beginning": HOSTILE}
            if domain == "web" and difference < 0:
                row |= {"drop_rule": "perplexity_difference", "drop_value": difference, "threshold": 0.0}
        rows.append(row)
    for outcome in ("kept", "removed"):
        write_jsonl(
            folder / f"{outcome}-text-00000.jsonl.zst", [r for r in rows if ("drop_rule" in r) == (outcome != "kept")]
        )
    fates = [("length", "short", 90), ("length", "kept", 18), ("statistics", "conjunction_ratio", 4)]
    fates += [("statistics", "kept", 14), ("perplexity", "perplexity_difference", 3), ("perplexity", "kept", 11)]
    funnel = [
        {"step": step, "rule": rule, "domain": "web", "source": "en", "documents": n, "bytes": 40_000 * n}
        for step, rule, n in fates
    ]
    (folder / "funnel.json").write_text(json.dumps(funnel))


def _small_stages(run: Path, rng: random.Random) -> None:
    (run / "sft").mkdir()
    _plain(
        run / "sft" / "metrics.jsonl",
        [
            {
                "step": s,
                "loss": 2.9 * math.exp(-s / 70) + 0.8 + rng.gauss(0, 0.03),
                "lr": 1e-3 * (1 - s / 240),
                "tokens_per_second": 4800.0,
                "tokens": s * 4096,
            }
            for s in range(10, 240, 10)
        ],
    )
    (run / "reward").mkdir()
    _plain(
        run / "reward" / "metrics.jsonl",
        [
            {
                "step": s,
                "loss": 0.2 * math.exp(-s / 40) + 0.02,
                "ranking_loss": 0.17 * math.exp(-s / 40) + 0.015,
                "penalty": 0.03 * math.exp(-s / 30),
                "accuracy": 1 - 0.45 * math.exp(-s / 35),
                "lr": 5e-4,
            }
            for s in range(10, 170, 10)
        ],
    )


def _ppo(folder: Path, rng: random.Random) -> None:
    rows = []
    for i in range(27):
        progress = max(0, i - 3) / 24
        by_domain = {d: -0.5 + k * 0.4 + 1.6 * progress + rng.gauss(0, 0.12) for k, d in enumerate(DOMAINS)}
        rows.append(
            {
                "iteration": i,
                "warmup": i < 3,
                "reward": sum(by_domain.values()) / 4,
                "reward_by_domain": by_domain,
                "reward_parts": {"model": by_domain, "mine/covers": {"code": 0.25, "maths": 0.5}},
                "unscored": int(i == 5),
                "failures": {"mine": {"answers": 1, "first": HOSTILE}} if i == 5 else {},
                "kl": 9 * progress + rng.random(),
                "response_tokens": 48 - 12 * progress + rng.gauss(0, 1),
                "cut_share": 0.3 * rng.random(),
                "policy_loss": rng.gauss(0, 0.02),
                "value_loss": 0.6 * math.exp(-i / 8) + 0.05,
                "pretrain_loss": None if i < 3 else 3.2 + rng.gauss(0, 0.03),
                "clip_fraction": 0.1 * rng.random(),
                "logprob_gap": 1e-5 * rng.random(),
                "weight_version": i,
                "seconds": {"rollout": 3.1, "score": 0.7, "critic": 0.9, "policy": 1.8, "sync": 0.4},
            }
        )
    folder.mkdir()
    _plain(folder / "metrics.jsonl", rows)
    _plain(
        folder / "samples.jsonl",
        [{"iteration": 26, "domain": d, "prompt": HOSTILE, "response": HOSTILE, "reward": 1.25} for d in DOMAINS],
    )


def _online(run: Path) -> None:
    """Two rounds: a phrase found in the first, patched in the second."""
    sample = {"prompt": "p1", "domain": "code", "early": HOSTILE, "late": HOSTILE}
    scored = sample | {"early_score": 0.1, "late_score": 2.0}
    pattern = {
        **{"trait": {"kind": "phrase", "phrase": ["good", "!"]}, "shown": HOSTILE, "bound": 0.5, "severity": 1.62},
        **{"early": 0.02, "late": 0.83, "early_share": 0.02, "late_share": 0.83, "z": 11.3, "p": 2e-27},
        **{"score_with": 2.1, "score_without": 0.1, "explained": 0.61, "asked": 3, "differing": 9},
        **{"domains": ["code", "maths"], "samples": [scored], "name": "round-1-1-phrase", "patches": 99},
    }
    length = pattern | {"trait": {"kind": "length", "phrase": []}, "shown": "length", "bound": 31.0, "patches": None}
    scores = {"chosen": 0.4, "chosen_se": 0.1, "rejected": 2.2, "rejected_se": 0.1, "won": 0.1}
    mended = scores | {"rejected": -1.1, "won": 0.95}
    plain = {"answers": 1700, "pairs": 320, "tested": 211, "ppo": {"reward": 1.5, "kl": 4.0}}
    (run / "online").mkdir()
    rounds = [
        {"round": 1, **plain, "found": [pattern], "learned": [length], "model": "ppo/model"},
        {"round": 2, **plain, "found": [], "learned": [], "model": "rounds/2/ppo/model"}
        | {"compared": {"round-1-1-phrase": {"pairs": 21, "before": scores, "after": mended}}},
    ]
    (run / "online" / "online.json").write_text(json.dumps(rounds))


def _evaluation(folder: Path) -> None:
    folder.mkdir()
    model = {
        "prompts": 64,
        "reward_mean": -0.21,
        "reward_se": 0.11,
        "kl_mean": 0.0,
        "kl_se": float("nan"),
        "response_tokens": 47.0,
    }
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                "bits_per_byte": {
                    "pretrain": dict(zip(SOURCES, (2.31, 3.12, 1.92), strict=True)),
                    "sft": dict(zip(SOURCES, (2.38, 3.2, 2.0), strict=True)),
                    "ppo": dict(zip(SOURCES, (2.4, 3.23, 2.03), strict=True)),
                },
                "reward_accuracy": {
                    d: {"conditional": 0.9 + k / 50, "unconditional": 0.6 + k / 40} for k, d in enumerate(DOMAINS)
                },
                "alignment": {"sft": model, "ppo": model | {"reward_mean": 1.34, "reward_se": 0.09, "kl_mean": 8.7}},
                "by_domain": {d: {"sft": -0.4 + k * 0.3, "ppo": 1.1 + k * 0.2} for k, d in enumerate(DOMAINS)},
                "conversations": [
                    {
                        "domain": "helpful",
                        "prompt": "Please explain why the sky is blue.",
                        "sft": "The sky is blue because the light of the sun is scattered by the air. " * 3,
                        "ppo": "Air scatters blue light more strongly than red light, so the sky looks blue.",
                        "reward_sft": -0.42,
                        "reward_ppo": 1.73,
                    },
                    {
                        "domain": "harmless",
                        "prompt": HOSTILE,
                        "sft": HOSTILE,
                        "ppo": HOSTILE,
                        "reward_sft": -1.1,
                        "reward_ppo": 0.9,
                    },
                ],
            }
        )
    )


def _manifests(run: Path) -> None:
    counts = {
        n: {
            split: {"tokens": round(t * part), "documents": round(d * part), "bytes_per_token": b}
            for split, part in (("train", 0.95), ("heldout", 0.05))
        }
        for n, t, d, b in (("en", 1_834_021, 2711, 3.12), ("zh", 921_334, 1204, 2.68), ("code", 1_120_450, 398, 2.91))
    }
    drawn = random.Random(3)
    scores = [[drawn.gauss(mean, 1.0) for _ in range(90)] for mean in (1.0, 0.0)]
    lengths = [[drawn.randrange(9) for _ in range(90)] for _ in range(2)]
    figures = pair_figures(pair_sums(*scores, *lengths))
    metrics: dict[str, dict[str, Any]] = {
        "code": {
            "summary": {"files_in": 410, "documents": 41},
            "tiers": {t: {"files": n, "bytes": 900 * n} for t, n in (("high", 120), ("moderate", 201), ("low", 77))},
        },
        "tokenizer": {"vocabulary": 2048, "compression": {"en": 3.12, "zh": 2.68, "code": 2.91}},
        "decontamination": {
            "summary": {"documents": 4000, "removed": 3},
            "benchmarks": {"gsm8k/test.jsonl": {"items": 1319, "sought": 1310, "found": 3, "hits": 3}},
        },
        "tokens": {"summary": {"tokens": 3_875_805}, "sources": counts},
        "long_text": {"summary": {"kept": 4}, "scorer": {"model": None, "training_loss": 5.2}},
        "pretrain": {
            "drawn": [
                {"phase": phase, **asdict(Drawn(source, "all", 120, 9, 9 * 256, 1.5, {"1": 1.5, "3": 4.5}))}
                for phase, _ in PHASES
                for source in SOURCES
            ]
        },
        "sft": {},
        "reward": {
            "accuracy": {
                d: {"conditional": 0.9 + k / 50, "unconditional": 0.6 + k / 40} for k, d in enumerate(DOMAINS)
            },
            "figures": {d: {"conditional": figures} for d in DOMAINS},
        },
        "ppo": {},
        "online": {},
        "evaluation": {},
    }
    (run / "code" / "files").mkdir(parents=True, exist_ok=True)
    fates = (("read", "<b>rule", 12), ("read", "kept", 398), ("quality", "kept", 321), ("quality", "low_parses", 77))
    funnel = [
        {"step": step, "rule": rule, "language": "python", "dump": "code", "documents": n, "bytes": 900 * n}
        for step, rule, n in fates
    ]
    (run / "code" / "files" / "funnel.json").write_text(json.dumps(funnel))
    (run / "code" / "order.json").write_text(json.dumps({"demo": {"files": ["a.py", "<b>.py"], "edges": 1}}))
    events, now = [], 1_770_000_000.0
    for k, (stage, figures) in enumerate(metrics.items()):
        (run / stage).mkdir(exist_ok=True)
        seconds = (9.5, 2.1, 3.2, 7.7, 21.3, 262.4, 101.3, 88.0, 190.5, 95.0, 30.2)[k]
        settings: dict[str, Any] = {}
        if stage == "long_text":
            settings = {"long_text": {"min_bytes": 32768}, "thresholds": read_thresholds(None)}
        commit(run / stage, Manifest(stage, settings, {}, {}, figures, seconds, 900.0 + 210 * k))
        events.append({"time": now, "kind": "run", "stage": stage, "why": "not finished yet"})
        events.append({"time": now + seconds, "kind": "done", "stage": stage, "seconds": seconds})
        now += seconds
    events.insert(0, {"time": 1_700_000_000.0, "kind": "start", "job": "pipeline", "preset": "nano"})
    _plain(run / "journal.jsonl", events)


def _plain(path: Path, rows: list[dict[str, Any]], cut: bool = False) -> None:
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + ('\n{"step": 99, "lo' if cut else "\n"))
