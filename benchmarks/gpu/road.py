"""The whole road: preset nano end to end by `jobs/pipeline.py`, and the tests that need a GPU by pytest."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.cases import Case, Figures, Skipped, Where
from ilm_ray.run.journal import read_journal

ROOT = Path(__file__).parents[2]
TO_STOP_S = 45.0  # of the time left: a stopped job saves a checkpoint and ends its Ray
DEADLINE_S = 3600.0  # none of its own: both end when all time is over


def cases(where: Where) -> list[Case]:
    return [
        Case("pytest -m gpu", functools.partial(tests, where), DEADLINE_S),
        Case("preset nano", functools.partial(nano, where), DEADLINE_S),
    ]


def nano(where: Where) -> Figures:
    """Seconds and peak memory of each stage. Where the time is over before, of those that were done by then."""
    _require(where, "ray", "vllm", "deepspeed", "trafilatura")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "nano"
        command = [sys.executable, "jobs/pipeline.py", "--preset", "nano", "--run-dir", str(folder)]
        ended, output = _run(command, where)
        stages = {
            event["stage"]: {"seconds": event.get("seconds"), "peak_memory_mb": event.get("peak_memory_mb")}
            for event in read_journal(folder / "journal.jsonl")
            if event["kind"] == "done"
        }
        if ended is None:
            return {"stages": stages, "skipped": f"no end within the time left; {len(stages)} stages were done"}
        lines = [line for line in output.splitlines() if line.startswith('{"job"')]
        figures: Figures = {"stages": stages, "summary": json.loads(lines[-1]) if lines else None}
        return figures if ended == 0 else figures | {"failed": f"exit code {ended}: {_last_line(output)}"}


def tests(where: Where) -> Figures:
    """How many tests of the marker `gpu` passed, failed and were skipped."""
    _require(where, "pytest", "hypothesis")
    ended, output = _run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], where, GPU_TESTS="1")
    counts = {
        f"tests_{kind}": int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output)
    }
    if ended is None:
        return counts | {"skipped": "no end within the time left"}
    return counts if ended == 0 else counts | {"failed": f"exit code {ended}: {_last_line(output)}"}


def _require(where: Where, *packages: str) -> None:
    if not where.on_gpu:
        raise Skipped("needs a CUDA device")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")


def _run(command: list[str], where: Where, **environment: str) -> tuple[int | None, str]:
    """(exit code, output); None as the code where the time left was too short, and the command was asked to stop."""
    seconds = where.ends_at - time.time() - TO_STOP_S
    if seconds <= 0:
        raise Skipped("no time was left")
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=TO_STOP_S / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return None, output


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""
