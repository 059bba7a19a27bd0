"""Claim: web text, WARC to kept documents, in at least 10% less time than another checkout takes; the same documents.

    python benchmarks/web_text_before.py --before CHECKOUT [--captures 10000] [--rounds 3] [--folder DIR]

CHECKOUT needs an environment of its own (`make setup` there). Both run the job `web_text` over one crawl (see crawl.py)
on two CPUs, all languages, in turn: before, now, now, before, ... CPU and wall seconds are those of the whole process
tree, Ray's start included; `steps` are the CPU seconds of the tasks alone. The kept documents of both must have equal
ids and texts.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from crawl import DATA, generate
from processes import CommandFailed
from web_text_peer import REPOSITORY, cpu_seconds, run_ours

from ilm_ray.base.jsonl import read_jsonl

GOAL = 0.9
KEPT = ("final", "quality")  # the folder of the kept documents, now and before


def kept_digest(run: Path) -> str:
    """A digest of ids and texts of the kept documents, in the order of the files."""
    digest = hashlib.sha256()
    (folder,) = (run / "text" / name for name in KEPT if (run / "text" / name).is_dir())
    for path in sorted(folder.glob("kept-*.jsonl.zst")):
        for row in read_jsonl(path):
            digest.update(f"{row['id']} {row['text']}\n".encode())
    return digest.hexdigest()


def measure(folder: Path, crawl: Path, before: Path, rounds: int, timeout_s: float) -> dict[str, Any]:
    sides = {"before": before, "now": REPOSITORY}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            run = folder / f"{name}-{number}"
            finished = run_ours(crawl, run, timeout_s, sides[name])
            steps = cpu_seconds(run)
            seconds = {"seconds": finished.seconds, "cpu_seconds": finished.cpu_seconds, "steps": sum(steps.values())}
            runs[name].append({key: round(value, 1) for key, value in seconds.items()} | {"kept": kept_digest(run)})
            print(f"{name:<7}{runs[name][-1]}  {steps}", flush=True)
    digests = {each["kept"] for side in runs.values() for each in side}
    ratios = {
        key: round(statistics.median(a[key] / b[key] for a, b in zip(runs["now"], runs["before"], strict=True)), 3)
        for key in ("seconds", "cpu_seconds", "steps")
    }
    return {"rounds": rounds, "same_documents": len(digests) == 1, "now_to_before": ratios, "goal": GOAL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the code to compare with")
    parser.add_argument("--captures", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where crawl and results go (default: a temporary folder)")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that a run may take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        generate(folder / "crawl", arguments.data, arguments.captures)
        try:
            figures = measure(
                folder, folder / "crawl", arguments.before.absolute(), arguments.rounds, arguments.timeout
            )
        except CommandFailed as error:
            sys.exit(str(error))
    print(json.dumps({"captures": arguments.captures, **figures}))


if __name__ == "__main__":
    main()
