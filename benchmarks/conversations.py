"""A million conversations prepared for SFT: tokenised once, killed half-way, resumed; then what a rank holds of them.

    python benchmarks/conversations.py --run runs/demo [--rows 1000000]

The tokenizer is that of a finished run; conversations of two to six turns are made of words. Printed: seconds and rows
a second of the whole preparation, seconds before the kill and after it, most memory of the process tree, seconds and
memory of a rank that opens the result, and seconds in which it reads a thousand conversations anywhere. Claims: no
chunk that was done before the kill is done again, and a rank's own memory stays below 64 bytes a conversation.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.processes import TreePeak, tree

WORDS = ("river", "stone", "bridge", "because", "often", "the", "of", "a", "garden", "people", "built", "why", "water")
RANK_BYTES = 64  # of a conversation
DEADLINE_S, GONE_S = 3600, 60
PREPARE = """
import sys
from pathlib import Path
from ilm_ray.alignment.conversations import tokenize_conversations
from ilm_ray.config import load_config
from jobs.frame.cluster import LocalRay
with LocalRay(load_config("nano", None, ["ray.dashboard=false"])):
    tokenize_conversations(Path(sys.argv[1]), Path(sys.argv[2]), 512)
"""
RANK = """
import json, random, sys, time
from pathlib import Path
import psutil
from ilm_ray.alignment.conversations import FOLDER, Conversations
before, started = psutil.Process().memory_full_info().uss, time.monotonic()
opened = Conversations(Path(sys.argv[1]) / "sft" / FOLDER, 512)
seconds, own = time.monotonic() - started, psutil.Process().memory_full_info().uss - before
started, rng = time.monotonic(), random.Random(0)
tokens = sum(len(opened.example(int(opened.train[rng.randrange(len(opened.train))]))[0]) for _ in range(1000))
rows, read = len(opened.lengths), round(time.monotonic() - started, 2)
print(json.dumps({"rows": rows, "seconds": round(seconds, 2), "own_bytes_a_row": round(own / rows, 1),
                  "thousand_read_s": read, "tokens": tokens}))
"""


def write_rows(path: Path, rows: int) -> None:
    """Conversations as JSON Lines."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 40))) for _ in range(2000)]
    with path.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            turns = [{"role": role, "content": rng.choice(texts)} for role in ("user", "assistant") * rng.randint(1, 3)]
            out.write(json.dumps({"messages": turns}) + "\n")


def prepare(path: Path, run: Path, kill_at: int | None) -> tuple[float, float]:
    """Seconds and most MiB of a preparation, which is killed once `kill_at` chunks are done."""
    receipts, started = run / "sft" / "conversations" / "receipts", time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(path), str(run)], stderr=subprocess.DEVNULL)
    with TreePeak(process.pid) as peak:
        while process.poll() is None and time.monotonic() - started < DEADLINE_S:
            if kill_at is not None and len(list(receipts.glob("*.json"))) >= kill_at:
                family = tree(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait()  # before psutil, which would take its exit code away
                psutil.wait_procs(family, timeout=GONE_S)
                break
            time.sleep(0.2)
    if process.wait(GONE_S) != (0 if kill_at is None else -signal.SIGKILL):
        raise SystemExit(f"the preparation ended with exit code {process.returncode}")
    return time.monotonic() - started, peak.peak_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run folder with a tokenizer")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "chat.jsonl", Path(folder) / "run"
        write_rows(path, arguments.rows)
        run.mkdir()
        (run / "tokenizer").symlink_to(arguments.run.absolute() / "tokenizer", target_is_directory=True)
        chunks = -(-arguments.rows // 20_000)
        first, first_mb = prepare(path, run, max(1, chunks // 2))
        done = {p: p.stat().st_mtime_ns for p in (run / "sft" / "conversations" / "receipts").glob("*.json")}
        second, second_mb = prepare(path, run, None)
        kept = all(p.stat().st_mtime_ns == time_ns for p, time_ns in done.items())
        rank = json.loads(
            subprocess.run([sys.executable, "-c", RANK, str(run)], check=True, capture_output=True).stdout
        )
        figures = {
            "rows": arguments.rows,
            "file_mib": round(path.stat().st_size / 2**20),
            "killed_after_s": round(first, 1),
            "chunks_done_then": len(done),
            "chunks": chunks,
            "then_s": round(second, 1),
            "rows_a_second": round(arguments.rows / (first + second)),
            "peak_mib": round(max(first_mb, second_mb)),
            "rank": rank,
            "holds": kept and rank["rows"] == arguments.rows and rank["own_bytes_a_row"] < RANK_BYTES,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
