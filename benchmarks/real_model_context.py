"""SmolLM2's context of 8,192 tokens extended with a larger RoPE base: bits per byte by position, before and after.

    make real-model
    python benchmarks/real_model_context.py [--data DIR] [--run runs/longer] [--context 16384] [--steps 4]

Data: `<data>/text/books_en`. One book is measured on, the others are trained on, by the road's own stages (text,
decontamination, tokens, pre-training from `base=`). Printed: bits per byte of the measured book by position, of the
model as it came, of the same weights with the new base, and of the trained ones; seconds of the training. Claim: beyond
the old window the trained model is better than the one that came.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.real_model_road import DEADLINE_S, MODEL, ROOT
from ilm_ray.evaluation.pipeline import measured

ROPE_BASE = 500_000.0
MEASURED, TRAINED = "16215.txt", ("3261.txt", "6527.txt", "972.txt")
JOBS = ("web_text", "code_data", "decontaminate", "tokenize_corpus", "long_text", "pretrain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "longer")
    parser.add_argument("--context", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    run, books = arguments.run.absolute(), arguments.data / "text" / "books_en"
    seconds = train(run, books, arguments.context, arguments.steps)
    came, trained = run / "base" / "model", run / "pretrain" / "model"
    models = {"as it came": came, "with the new base": with_base(came, run / "new_base"), "trained": trained}
    text = (books / MEASURED).read_text(encoding="utf-8")
    curves = {name: bits_by_position(folder, run, arguments.context, text) for name, folder in models.items()}
    beyond = {name: curve[arguments.context] for name, curve in curves.items()}
    holds = beyond["trained"] < beyond["as it came"]
    print(json.dumps({"seconds": seconds, "bits_per_byte": curves, "holds": holds}))


def train(run: Path, books: Path, context: int, steps: int) -> dict[str, int]:
    """Run the stages from the books to the trained model; seconds of each job."""
    run.mkdir(parents=True, exist_ok=True)
    folder = run.with_name(f"{run.name}-inputs")
    folder.mkdir(exist_ok=True)
    for name in TRAINED:
        (folder / name).write_bytes((books / name).read_bytes())
    phase = {"name": "longer", "steps": steps, "context": context, "batch_tokens": context, "max_lr": 2e-5}
    settings = {
        "input": None,
        "base": str(MODEL),
        # The books are long and chosen already: the scorer of long texts does not matter here.
        "long_text": {"scorer_steps": 1, "scorer_batch_tokens": 4096, "max_pairs": 2},
        "text": {"sources": {"books": {"input": f"{folder}/*.txt"}}},
        "training": {
            **{"workers": 1, "precision": "bf16", "log_every": 1, "micro_tokens": context},
            "hang_s": DEADLINE_S,  # a step takes minutes on a CPU
        },
        "pretrain": {
            "phases": [{**phase, "rope_base": ROPE_BASE, "mixture": {"books": 1.0}}],
            **{"heldout_share": 0.01, "checkpoint_every": 1},
        },
        "ray": {"dashboard": False},
    }  # fmt: skip
    (folder / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    seconds = dict[str, int]()
    for job in JOBS:
        started = time.monotonic()
        words = ["--preset", "mini", "--run-dir", str(run), "--config", str(folder / "settings.yaml")]
        subprocess.run(
            [sys.executable, f"jobs/{job}.py", *words],
            cwd=ROOT,
            check=True,
            timeout=DEADLINE_S,
            stdout=subprocess.DEVNULL,
        )
        seconds[job] = round(time.monotonic() - started)
    return seconds


def with_base(model: Path, out: Path) -> Path:
    """The same weights with the new RoPE base, untrained, in `out`."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    shape = json.loads((out / "shape.json").read_text(encoding="utf-8"))
    (out / "shape.json").write_text(json.dumps(shape | {"rope_base": ROPE_BASE}), encoding="utf-8")
    return out


def bits_by_position(folder: Path, run: Path, context: int, text: str) -> dict[int, float]:
    """Last position of each bucket -> bits per byte of `text` there; two windows of `context` tokens."""
    curve = measured(folder, run, context, 2 * context, text, "cpu", torch.bfloat16, heldout=False)["by_position"]
    return {edge: round(bits, 4) for edge, bits in zip(curve["edges"], curve["bits_per_byte"], strict=True) if bits}


if __name__ == "__main__":
    main()
