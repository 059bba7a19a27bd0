"""Measure whether a model has seen a benchmark: by its losses, by the documents it was trained on. Needs no Ray.

    python jobs/contamination.py losses  --model RUN/STAGE [--model ...] --train F --test F --reference F --out DIR
                                         [--items N] [--seed S]
    python jobs/contamination.py overlap --run-dir DIR --benchmarks GLOB [GLOB ...] --out DIR

`losses`: mean loss a token on a benchmark's training set, its test set and a set written to resemble it, delta1 (test -
reference, low: a leak) and delta2 (test - train, high: the training set was learned by heart) with bootstrap intervals;
writes contamination.json and contamination.html. `overlap`: the documents of the run's token shards that hold items,
exact or lightly edited; writes overlap.jsonl.zst with both texts of each, and overlap.json. Benchmark files in any form
that decontamination reads. The last line is one JSON object. Exit codes: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config.data import DecontaminationConfig
from ilm_ray.data.decontamination.items import find_benchmarks, read_benchmarks, read_items
from ilm_ray.run.progress import Progress
from jobs.frame.command import Parser, run_verb


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two, print the JSON line, return the exit code."""
    return run_verb("contamination", _parser(), argv)


def _parser() -> Parser:
    from ilm_ray.evaluation.contamination import SETS

    parser = Parser(prog="jobs/contamination.py", description="Has a model seen a benchmark?")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="losses|overlap")
    losses = verbs.add_parser("losses", help="losses on train, test and reference set")
    losses.add_argument("--model", type=Path, action="append", required=True, help="stage of a run; may be repeated")
    for name in SETS:
        losses.add_argument(f"--{name}", type=Path, required=True, help="benchmark file")
    losses.add_argument("--items", type=int, help="of each set, drawn at random (default: all)")
    losses.add_argument("--seed", type=int, default=1234, help="of the draws (default 1234)")
    losses.set_defaults(work=_losses)
    overlap = verbs.add_parser("overlap", help="documents of the token shards that hold items")
    overlap.add_argument("--run-dir", type=Path, required=True, help="folder of a run with its stage 'tokens'")
    overlap.add_argument("--benchmarks", nargs="+", required=True, help="globs of benchmark files")
    overlap.set_defaults(work=_overlap)
    for verb in (losses, overlap):
        verb.add_argument("--out", type=Path, required=True, help="folder of the results")
    return parser


def _losses(a: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.evaluation.contamination import SETS, as_json, contamination, item_losses
    from ilm_ray.model.weights import load_causal
    from ilm_ray.report.contamination import contamination_page
    from ilm_ray.serving.folder import model_and_tokenizer

    texts = {name: _texts(getattr(a, name), name, a.items, a.seed) for name in SETS}
    folders = {str(model): model_and_tokenizer(model) for model in a.model}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {}
    progress = Progress("contamination", len(folders) * len(SETS))
    for number, (name, (weights, tokens)) in enumerate(folders.items()):
        model, tokenizer = load_causal(weights).to(device).eval(), open_tokenizer(tokens)
        losses = {}
        for place, (which, set_texts) in enumerate(texts.items(), 1):
            losses[which] = item_losses(model, tokenizer, set_texts)
            progress.update(number * len(SETS) + place)
        results[name] = contamination(losses, a.seed)
    figures = {name: as_json(result) for name, result in results.items()}
    a.out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(a.out / "contamination.json", json.dumps(figures, indent=1, ensure_ascii=False))
    write_text_atomic(a.out / "contamination.html", contamination_page(results))
    return {"report": str(a.out / "contamination.html"), "models": figures}


def _texts(path: Path, name: str, most: int | None, seed: int) -> list[str]:
    from ilm_ray.evaluation.contamination import item_text

    if not path.is_file():
        raise UserError(f"--{name} {path} does not exist; give a benchmark file (.jsonl, .json, .csv, plain or .gz)")
    texts = [item_text(item) for item in read_items(path, path.name)]
    return texts if most is None or most >= len(texts) else random.Random(seed).sample(texts, most)


def _overlap(a: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.evaluation.overlap import by_benchmark, item_index, overlaps
    from ilm_ray.training.pretrain import open_sources

    folder = a.run_dir / "tokens"
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give the --run-dir of a run that has its stage 'tokens'")
    settings = DecontaminationConfig()
    index = item_index(read_benchmarks(find_benchmarks(a.benchmarks)), settings)
    tokenizer, sources = open_tokenizer(a.run_dir / "tokenizer"), open_sources(folder, "train")
    progress = Progress("overlap", len(sources))
    rows = []
    for done, (name, source) in enumerate(sources.items(), 1):
        rows += list(overlaps(source, name, index, tokenizer, settings))
        progress.update(done, found=len(rows))
    counts = by_benchmark(index, rows)
    a.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(a.out / "overlap.jsonl.zst", rows)
    write_text_atomic(a.out / "overlap.json", json.dumps(counts, indent=1, ensure_ascii=False))
    return {"documents": len({(row["stage"], row["id"]) for row in rows}), "benchmarks": counts, "out": str(a.out)}


if __name__ == "__main__":
    sys.exit(main())
