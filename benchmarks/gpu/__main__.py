"""`python -m benchmarks.gpu`: run the sections one after the other, and write gpu.json after each."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import __doc__ as about
from benchmarks.gpu.cases import Where
from benchmarks.gpu.runner import Row, run_section
from benchmarks.gpu.table import tables

# In the order of what one wants to know first, should time run out. The longest comes last.
SECTIONS = {
    "machine": "benchmarks.gpu.machine",
    "rates": "benchmarks.gpu.rates",
    "attention": "benchmarks.gpu.attention",
    "ppo": "benchmarks.gpu.ppo",
    "resume": "benchmarks.gpu.resume",
    "step": "benchmarks.gpu.training_step",
    "road": "benchmarks.gpu.road",
}
VERDICTS = ("holds", "memory_holds")


def main(argv: Sequence[str] | None = None) -> int:
    """0: everything that ran holds. 1: a case failed or does not hold; gpu.json says which. 2: there is no GPU."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all of it (default 10)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes that only show that the logic runs")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--step", action="append", default=[], help="a training step of your own, see training_step.py")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu needs --tiny: a CPU takes hours for the others")
    if arguments.device == "cuda" and shutil.which("nvidia-smi") is None:
        print("no GPU here (nvidia-smi is absent); --device cpu --tiny shows that it runs", file=sys.stderr)
        return 2
    ends_at = time.time() + 60 * arguments.minutes
    where = Where(arguments.device, arguments.tiny, ends_at, tuple(arguments.step))
    sections = dict[str, list[Row]]()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            started = time.monotonic()
            sections[name] = run_section(name, SECTIONS[name], where, Path(folder))
            result = {"tiny": arguments.tiny, "sections": sections}
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {summary(sections[name])}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(tables(result))
    return 1 if any(map(is_bad, (row for rows in sections.values() for row in rows))) else 0


def is_bad(row: dict[str, Any]) -> bool:
    """The case failed, or a comparison of it does not hold."""
    return "failed" in row or any(row.get(name) is False for name in VERDICTS)


def summary(rows: Sequence[Row]) -> str:
    """`3 measured, 2 skipped (flash2 ...)`, for people."""
    skipped = [row["case"] for row in rows if "skipped" in row]
    bad = [row["case"] for row in rows if is_bad(row)]
    parts = [f"{len(rows) - len(skipped) - len(bad)} well"]
    parts += [
        f"{len(names)} {word} ({', '.join(names)})" for word, names in (("bad", bad), ("skipped", skipped)) if names
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
