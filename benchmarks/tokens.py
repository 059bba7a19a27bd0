"""The tokens stage against tiktoken alone, and packing against what training needs.

    python benchmarks/tokens.py [--megabytes 240] [--files 24] [--rounds 2] [--data ../shared/data]

Tokenising: JSON Lines with zstd in, shards out, on Ray Data with all cores, against `encode_ordinary_batch` on as many
threads over the same texts that lie in memory already; rounds alternate. Starting Ray and its
workers, which load the tokenizer once, is shown apart: what the first run took longer.
Packing: `Mixture.batch` on one core over those shards, against the tokens a second that a GPU consumes.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tokenizer import DATA, documents

from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.mixture import Mixture
from ilm_ray.data.tokens.pipeline import tokenize_corpus
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.run.journal import Journal
from ilm_ray.run.memory import PeakMemory
from ilm_ray.run.stage import Context, Result
from jobs.frame.cluster import LocalRay

CHARACTERS = 8_000  # of a document: books and manuals are cut
# Tokens a second of the fastest model: 1.8B parameters at half of an H100's 989 TFLOP/s, 6 FLOP a parameter.
TOKENS_PER_GPU_SECOND = 0.5 * 989e12 / (6 * 1.9e9)


def texts_of(data: Path, megabytes: int) -> list[str]:
    """Documents of real text and code, repeated until there are enough: tiktoken keeps nothing of earlier ones."""
    whole = [d.text for d in documents(data)]
    cut = [text[at : at + CHARACTERS] for text in whole for at in range(0, len(text), CHARACTERS)]
    out, size = list[str](), 0
    while size < megabytes * 1e6:
        for text in cut:
            out.append(text)
            size += len(text.encode("utf-8", "replace"))
    return out


def write_run(folder: Path, texts: list[str], files: int) -> None:
    """A run folder with the kept documents of a text stage."""
    for number in range(files):
        rows = (
            {
                "id": number << 28 | i,
                "url": f"https://example.org/{number}/{i}",
                "dump": "CC-MAIN-2024-10",
                "language": "en",
                "chars": len(text),
                "text": text,
            }
            for i, text in enumerate(texts[number::files])
        )
        write_jsonl(folder / "text" / "final" / f"kept-{number:05d}.jsonl.zst", rows)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare(tokenizer: Tokenizer, texts: list[str], threads: int) -> None:
    for at in range(0, len(texts), 512):  # no more at once: the lists of ids would fill the memory
        tokenizer.encoding.encode_ordinary_batch(texts[at : at + 512], num_threads=threads)


def stage(context: Context, name: str) -> Result:
    return tokenize_corpus(replace(context, folder=context.run_dir / name))


def packing(folder: Path, seconds: float = 5.0) -> dict[str, float]:
    """context -> tokens a second of `Mixture.batch` on one core."""
    source = TokenSource(folder)
    speeds = {}
    for context in (4096, 32768):
        mixture = Mixture({"en": source}, {"en": 1.0}, context, 0, 0.5, CHARACTERS // 4)
        mixture.batch(0, 1)  # the order of the first pass
        started, number = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            mixture.batch(number, 4)
            number += 4
        speeds[str(context)] = number * context / (time.perf_counter() - started)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ranks, _ = cl100k()
    tokenizer = Tokenizer(first_tokens(ranks, 60_004), 92_544)
    texts = texts_of(args.data, args.megabytes)
    megabytes = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6
    config = load_config("nano", None, [f"ray.num_cpus={cores}", "ray.dashboard=false"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, texts, args.files)
        tokenizer.save(folder / "tokenizer")
        packed = sum(path.stat().st_size for path in (folder / "text").rglob("*.zst")) / 1e6
        print(
            f"{megabytes:.0f} MB of text in {len(texts):,} documents, {packed:.0f} MB as zstd; {cores} cores",
            flush=True,
        )
        alone, whole = list[float](), list[float]()
        started = time.perf_counter()
        with LocalRay(config):
            ray_up = time.perf_counter() - started
            context = Context(config, folder, folder, Journal(folder / "journal.jsonl"))
            with PeakMemory() as memory:  # measuring it costs time too
                first = timed(lambda: stage(context, "tokens-first"))
            for number in range(args.rounds):
                alone.append(megabytes / timed(lambda: bare(tokenizer, texts, cores)))
                whole.append(megabytes / timed(lambda n=number: stage(context, f"tokens-{n}")))  # type: ignore[misc]
                print(f"round {number}: tiktoken {alone[-1]:.1f} MB/s, the stage {whole[-1]:.1f} MB/s", flush=True)
            alone.append(megabytes / timed(lambda: bare(tokenizer, texts, cores)))
        start_up = ray_up + first - megabytes / statistics.median(whole)
        ratio = statistics.median(whole) / statistics.median(alone)
        print(
            f"Ray and its workers ready after {start_up:.1f} s; peak memory of all processes {memory.peak_mb:.0f} MiB"
        )
        print(f"tokenise and write: {ratio:.3f} of tiktoken on {cores} threads")
        speeds = packing(folder / "tokens-0" / "en" / "train")
        for size, speed in speeds.items():
            need = speed / TOKENS_PER_GPU_SECOND
            print(f"packing to {size}: {speed / 1e6:.1f}M tokens/s on one core, {need:.0f} times what a GPU consumes")
    report = {
        "megabytes": round(megabytes),
        "cores": cores,
        "tiktoken_mb_s": [round(v, 1) for v in alone],
        "stage_mb_s": [round(v, 1) for v in whole],
        "ratio": round(ratio, 3),
        "start_up_s": round(start_up, 1),
        "packing_tokens_s": {size: round(speed) for size, speed in speeds.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
