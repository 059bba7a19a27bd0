"""Claim: WARC -> deduplicated JSON Lines at 1.5 times datatrove 0.10.1's documents per second, at no lower F1.

    python benchmarks/web_text_peer.py [--captures 10000] [--folder DIR] [--peer-venv DIR] [--data ../shared/data/web]

Both sides read one crawl (see crawl.py) on two cores and are measured from outside, start-up included: datatrove with
two workers through datatrove_peer.py; ours as the job `web_text` with Ray on two CPUs, all languages. Ours does more:
language identification, block lists and four classifiers, which are trained in the run. F1 is that of the extracted
text, removed documents too, over the must-have and must-not-have segments of the original captures that have gold; ours
is cleaned by then.
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from crawl import DATA, generate
from processes import CommandFailed, Finished, peer_python, run_measured

from ilm_ray.base.jsonl import read_jsonl

REPOSITORY = Path(__file__).parents[1]
PEER = ("datatrove[io,processing]==0.10.1", "lxml_html_clean", "spacy")
GOAL = 1.5
CORES = 2


def run_ours(crawl: Path, folder: Path, timeout_s: float, checkout: Path = REPOSITORY) -> Finished:
    # Another checkout runs in its own environment, whose editable install its Ray workers import.
    python = sys.executable if checkout == REPOSITORY else str(checkout / ".venv" / "bin" / "python")
    return run_measured(
        [
            *(python, str(checkout / "jobs" / "web_text.py"), "--run-dir", str(folder)),
            *(f"input={crawl}/*/*.warc.gz", f"ray.num_cpus={CORES}", "ray.dashboard=false", "text.languages=null"),
        ],
        timeout_s,
        {"PYTHONPATH": str(checkout)},
    )


def run_peer(python: Path, crawl: Path, folder: Path, timeout_s: float) -> Finished:
    script = REPOSITORY / "benchmarks" / "datatrove_peer.py"
    # Without PYTHONPATH, whose packages would mix with those of the peer's environment.
    return run_measured([str(python), str(script), str(crawl), str(folder), str(CORES)], timeout_s, {"PYTHONPATH": ""})


def our_texts(run: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """((url, date), text as Clean left it) of every capture, removed ones too."""
    for path in sorted((run / "text" / "cleaned").glob("*.jsonl.zst")):
        for row in read_jsonl(path):
            yield (row["url"], row["date"]), row["text"]


def peer_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def peer_texts(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    for row in peer_rows(folder / "extracted"):
        yield (row["metadata"]["url"], row["metadata"]["date"]), row["text"]


def f1(texts: Iterable[tuple[tuple[str, str], str]], gold: dict[tuple[str, str], dict[str, Any]]) -> float:
    """F1 of `with` segments found against `without` segments found; a capture without text has found nothing."""
    text_by_key = {key: text for key, text in texts if key in gold}
    hits = misses = wrong = 0
    for key, row in gold.items():
        text = text_by_key.get(key, "")
        inside = sum(segment in text for segment in row["with"])
        hits, misses = hits + inside, misses + len(row["with"]) - inside
        wrong += sum(segment in text for segment in row["without"])
    return 2 * hits / (2 * hits + misses + wrong)


def read_gold(data: Path, crawl: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Gold of the crawl's original captures by (url, date)."""
    by_payload: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(data / "gold_text.jsonl"):
        by_payload |= dict.fromkeys(row["payload_sha1"], row)
    originals = read_jsonl(crawl / "originals.jsonl")
    return {(o["url"], o["date"]): by_payload[o["payload_sha1"]] for o in originals if o["payload_sha1"] in by_payload}


def cpu_seconds(run: Path) -> dict[str, float]:
    """CPU seconds of each step's tasks, from the run's cost ledger; empty where it has none."""
    spent: dict[str, float] = {}
    for path in sorted((run / "text" / "cost").glob("*.json")):
        costs = json.loads(path.read_text())
        # A checkout of another day may have had a file a step.
        for step, cost in ({path.stem.rsplit("-", 1)[0]: costs} if "seconds" in costs else costs).items():
            spent[step] = spent.get(step, 0.0) + cost["seconds"]
    return {step: round(seconds, 1) for step, seconds in spent.items()}


def measure(folder: Path, data: Path, captures: int, peer_venv: Path, timeout_s: float) -> dict[str, Any]:
    crawl, ours, theirs = folder / "crawl", folder / "ours", folder / "theirs"
    python = peer_python(peer_venv, PEER)
    generate(crawl, data, captures)
    gold = read_gold(data, crawl)
    print(f"{captures} captures, {len(gold)} of them with gold; {CORES} cores a side", flush=True)

    peer = run_peer(python, crawl, theirs, timeout_s)
    survived = sum(1 for _ in peer_rows(theirs / "deduplicated"))
    figures = {"datatrove": _side(peer, captures, f1(peer_texts(theirs), gold), survived)}
    figures["datatrove"]["filtered"] = sum(1 for _ in peer_rows(theirs / "filtered"))

    our_run = run_ours(crawl, ours, timeout_s)
    funnel = json.loads((ours / "text" / "funnel.json").read_text())
    after = {
        step: sum(row["documents"] for row in funnel if row["step"] == step and row["rule"] == "kept")
        for step in ("clean", "dedup", "quality")
    }
    figures["ilm_ray"] = _side(our_run, captures, f1(our_texts(ours), gold), after["dedup"])
    figures["ilm_ray"] |= {"filtered": after["clean"], "kept_in_the_end": after["quality"]}
    figures["ilm_ray"]["cpu_seconds_by_step"] = cpu_seconds(ours)
    return figures


def _side(finished: Finished, captures: int, score: float, survived: int) -> dict[str, Any]:
    return {
        "seconds": round(finished.seconds, 1),
        "cpu_seconds": round(finished.cpu_seconds, 1),
        "documents_per_s": round(captures / finished.seconds, 2),
        "f1": round(score, 4),
        "peak_mb": round(finished.peak_mb),
        "deduplicated": survived,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where crawl and results go (default: a temporary folder)")
    parser.add_argument("--peer-venv", type=Path, help="datatrove's environment, made if absent (default: in --folder)")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that either side may take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        venv = (arguments.peer_venv or folder / "peer-venv").absolute()
        try:
            figures = measure(folder, arguments.data, arguments.captures, venv, arguments.timeout)
        except CommandFailed as error:
            sys.exit(str(error))
    for side, row in figures.items():
        print(f"{side:<10}" + "  ".join(f"{name} {value}" for name, value in row.items()))
    ratio = figures["ilm_ray"]["documents_per_s"] / figures["datatrove"]["documents_per_s"]
    print(f"documents per second: {ratio:.2f} times datatrove's (goal {GOAL})")
    print(json.dumps({"captures": arguments.captures, **figures, "ratio": round(ratio, 3), "goal": GOAL}))


if __name__ == "__main__":
    main()
