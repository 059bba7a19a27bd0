"""One conditional reward model against the same model without conditions, where preferences conflict and elsewhere.

    python benchmarks/conditional_reward.py [--data DIR] [--seeds 3] [--work DIR]

Data: `<data>/prefs`: harmlessness (hh_rlhf), helpfulness (alpaca_eval's and LLaMA-Factory's judgements), and two
domains of ours that conflict on purpose: of the same two answers of the helpfulness sets `concise` prefers the shorter
one, `detailed` the longer one. Prompts are split into training and held-out ones, anew for each seed. Both models start
from the same small model, which our own SFT trains on the preferred answers of the training split, and see the same
pairs as often. Printed: held-out accuracy by domain, the difference on conflicting pairs and elsewhere with its
standard error over pairs and seeds, and calibration and length bias of the conditional model. Minutes on two cores.
"""

import argparse
import gzip
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ilm_ray.alignment.conversations import tokenize_conversations
from ilm_ray.alignment.inputs import chat_file, preference_file
from ilm_ray.alignment.reward.pairs import Pairs, tokenize_pairs
from ilm_ray.alignment.reward.task import RewardTask, pair_scores
from ilm_ray.alignment.sft import SFTTask, plan_batches
from ilm_ray.base.jsonl import utf8_bytes
from ilm_ray.config import Config, load_config
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.model.weights import load_scalar, save_internlm2
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import LoopSettings, train
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.task import Task

PROMPTS = {
    "helpful": "Score how helpful the last answer is.",
    "harmless": "Score how harmless the last answer is.",
    "concise": "Score how short the last answer is.",
    "detailed": "Score how detailed the last answer is.",
}
CONFLICT = ("concise", "detailed")
MAX_CHARS = {"prompt": 300, "answer": 450}  # short pairs: many of them in little time
KEEP = {"harmless": 400, "helpful": 400, "conflict": 387}
HELDOUT = 0.3
CLEARLY_LONGER = 1.5
VOCABULARY, MODEL = 2048, {"layers": 2, "hidden": 64, "kv_heads": 2, "queries_per_kv": 1, "head_dim": 32}

Comparison = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where models stay (default: a temporary folder)")
    arguments = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        runs = [_one_seed(seed, arguments.data / "prefs", folder / str(seed)) for seed in range(arguments.seeds)]
    dist.destroy_process_group()
    _report(runs)


def _one_seed(seed: int, prefs: Path, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    rows = preferences(prefs, seed)
    config = _prepare(rows, seed, folder)
    tokenize_conversations(chat_file(config), folder, config.sft.context, in_process)
    _train(SFTTask(config, folder), config.training.weight_decay, folder / "sft")
    pairs = folder / "pairs"
    tokenize_pairs(preference_file(config), pairs, folder / "tokenizer", config.reward, in_process)
    right: dict[str, dict[str, list[bool]]] = {}
    figures: dict[str, Any] = {}
    for name, conditional in (("conditional", True), ("unconditional", False)):
        task = RewardTask(config, folder, pairs) if conditional else Unconditional(config, folder, pairs)
        notes = _train(task, config.reward.weight_decay, folder / name)
        if conditional:
            figures = notes[-1]["evaluations"][0]["figures"]
        right[name] = _ranked_right(folder / name / "model", task.pairs)
    print(f"seed {seed}: {_by_domain(right)}, {time.monotonic() - started:.0f} s", flush=True)
    return {"right": right, "figures": figures}


class Unconditional(RewardTask):
    """The same training without any condition in front of a conversation."""

    def __init__(self, config: Config, run_dir: Path, pairs: Path) -> None:
        super().__init__(config, run_dir, pairs)
        self.pairs = self.unconditional
        lengths = self.pairs.lengths[self.pairs.train]
        self.plan = plan_batches(lengths, config.reward.batch_tokens, config.reward.epochs, config.seed)
        self.steps = len(self.plan)


def preferences(prefs: Path, seed: int) -> list[Comparison]:
    """Rows of a preference file of ours; the same prompt never lies on both sides of the split."""
    generator = np.random.default_rng(seed)
    helpful, harmless = list(_helpful(prefs)), list(_harmless(prefs))
    rows = [*_drawn(helpful, KEEP["helpful"], generator), *_drawn(harmless, KEEP["harmless"], generator)]
    unlike = [row for row in helpful if _ratio(row) >= CLEARLY_LONGER]
    for row in _drawn(unlike, KEEP["conflict"], generator):
        short, long = sorted((row["chosen"], row["rejected"]), key=len)
        rows.append(row | {"domain": "concise", "chosen": short, "rejected": long})
        rows.append(row | {"domain": "detailed", "chosen": long, "rejected": short})
    prompts = sorted({json.dumps(row["prompt"]) for row in rows})
    heldout = set(generator.permutation(prompts)[: round(HELDOUT * len(prompts))].tolist())
    return [row | {"split": "heldout" if json.dumps(row["prompt"]) in heldout else "train"} for row in rows]


def _helpful(prefs: Path) -> Iterator[Comparison]:
    for path in sorted((prefs / "alpaca_eval").glob("*/annotations.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            answers = row["output_1"], row["output_2"]
            if row["preference"] in (1, 2):  # the number of the better answer
                better, worse = answers if row["preference"] == 1 else answers[::-1]
                yield from _row("helpful", row["instruction"], better, worse)
    for row in json.loads((prefs / "llama_factory" / "dpo_en_demo.json").read_text(encoding="utf-8")):
        if len(row["conversations"]) == 1:
            question = row["conversations"][0]["value"]
            yield from _row("helpful", question, row["chosen"]["value"], row["rejected"]["value"])


def _harmless(prefs: Path) -> Iterator[Comparison]:
    """The last question of each longer conversation, and its two answers."""
    with gzip.open(prefs / "hh_rlhf" / "harmless-base" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            turns = {name: re.split(r"\n\n(?:Human|Assistant): ?", text) for name, text in json.loads(line).items()}
            chosen, rejected = turns["chosen"], turns["rejected"]
            if len(chosen) == len(rejected) and chosen[-2] == rejected[-2]:
                yield from _row("harmless", chosen[-2], chosen[-1], rejected[-1])


def _row(domain: str, prompt: str, chosen: str, rejected: str) -> Iterator[Comparison]:
    prompt, chosen, rejected = prompt.strip(), chosen.strip(), rejected.strip()
    short = len(prompt) <= MAX_CHARS["prompt"] and max(len(chosen), len(rejected)) <= MAX_CHARS["answer"]
    if short and prompt and chosen and rejected and chosen != rejected:
        messages = [{"role": "user", "content": prompt}]
        yield {"domain": domain, "prompt": messages, "chosen": chosen, "rejected": rejected}


def _ratio(row: Comparison) -> float:
    short, long = sorted((len(row["chosen"]), len(row["rejected"])))
    return long / short


def _drawn(rows: list[Comparison], count: int, generator: np.random.Generator) -> list[Comparison]:
    return [rows[i] for i in generator.permutation(len(rows))[:count]]


def _prepare(rows: list[Comparison], seed: int, folder: Path) -> Config:
    """Tokenizer, tokens, an initialised model and the data files in a run folder; the configuration that names them."""
    folder.mkdir(parents=True)
    training = [row for row in rows if row["split"] == "train"]
    texts = sorted({f"{row['prompt'][0]['content']}\n{row[key]}" for row in training for key in ("chosen", "rejected")})
    tokenizer = Tokenizer(first_tokens(cl100k()[0], VOCABULARY - 64), VOCABULARY)
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    documents = [
        {"tokens": tokenizer.encode_document(text), "bytes": utf8_bytes(text), "id": i} for i, text in enumerate(texts)
    ]
    write_shard(folder / "tokens" / "en" / "train", 0, documents)
    chats = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]}
        for row in training
        if row["domain"] not in CONFLICT
    ]
    for name, content in (("pairs", rows), ("chats", chats)):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    config = load_config(
        "nano",
        None,
        [
            f"seed={seed}",
            *(f"model.{key}={value}" for key, value in MODEL.items()),
            "model.mlp_hidden=192",
            f"sft.data={folder / 'chats.jsonl'}",
            "sft.epochs=2",
            "sft.max_lr=2.0e-3",
            f"reward.data={folder / 'pairs.jsonl'}",
            f"reward.system_prompts={json.dumps(PROMPTS)}",
            "reward.epochs=6",
            "reward.batch_tokens=2048",
            "reward.max_lr=1.0e-3",
            "reward.min_lr=1.0e-4",
            "training.micro_tokens=4096",
        ],
    )
    model = CausalLM(shape_of(config, VOCABULARY))
    initialize(model, seed)
    save_internlm2(model, folder / "pretrain" / "model")
    return config


def in_process(items: list[dict[str, Any]], work: Any) -> Iterator[dict[str, Any]]:
    """Work on chunks without Ray."""
    return map(work, items)


def _train(task: Task, weight_decay: float, folder: Path) -> list[dict[str, Any]]:
    """Train on this process alone; returns what the task noted."""
    task.checkpoint_every = task.steps
    notes: list[dict[str, Any]] = []
    settings = LoopSettings("fp32", (0.9, 0.95), 1e-8, weight_decay, 1.0, Storage())
    train(task, settings, folder, notes.append, Watch(folder / "watch", 0, 600.0))
    return [row for row in notes if "evaluations" in row]


@torch.no_grad()
def _ranked_right(model: Path, pairs: Pairs) -> dict[str, list[bool]]:
    """Domain -> for each held-out pair whether the preferred answer has the higher score."""
    scorer = load_scalar(model)
    right: dict[str, list[bool]] = {}
    for pair in map(pairs.pair, pairs.heldout):
        chosen, rejected = pair_scores(scorer, [pair])
        right.setdefault(pair.domain, []).append(bool(chosen > rejected))
    return right


def _by_domain(right: dict[str, dict[str, list[bool]]]) -> str:
    parts = []
    for domain in PROMPTS:
        with_, without = (np.mean(right[name][domain]) for name in ("conditional", "unconditional"))
        parts.append(f"{domain} {100 * with_:.1f} % with, {100 * without:.1f} % without")
    return "; ".join(parts)


def _report(runs: list[dict[str, Any]]) -> None:
    print(f"\nheld-out pairs ranked right, {len(runs)} seeds: conditions, none, difference with its standard error")
    for name, domains in (
        *((d, (d,)) for d in PROMPTS),
        ("conflicting", CONFLICT),
        ("elsewhere", ("helpful", "harmless")),
    ):
        both = [
            np.array([r for run in runs for d in domains for r in run["right"][kind][d]], float)
            for kind in ("conditional", "unconditional")
        ]
        difference = both[0] - both[1]
        error = difference.std(ddof=1) / math.sqrt(len(difference))
        print(
            f"{name:12} {100 * both[0].mean():5.1f} % {100 * both[1].mean():5.1f} % "
            f"{100 * difference.mean():+6.1f} points ± {100 * error:.1f} ({len(difference)} pairs)"
        )
    for domain in (*PROMPTS, "all"):
        rows = [run["figures"][domain]["conditional"] for run in runs]
        columns = (
            ("calibration error", "calibration_error"),
            ("score-length correlation", "length_correlation"),
            ("within pairs", "length_correlation_within_pairs"),
        )
        means = ", ".join(f"{words} {np.mean([row[key] for row in rows]):.3f}" for words, key in columns)
        print(f"{domain:12} {means}")


if __name__ == "__main__":
    main()
