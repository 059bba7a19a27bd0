"""Runs sections in processes of their own, and ends those that take too long. Imports no torch."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Where

Row = dict[str, Any]  # case, seconds, figures; or case and one of skipped, failed
START_S = 120.0  # for a process to import torch and to list its cases, on a machine with a cold disk
OUT_OF_TIME = "no time was left"
ROOT = Path(__file__).parents[2]


@dataclass
class Progress:
    """The rows that a section's process has printed so far."""

    cases: list[str] | None = None
    rows: list[Row] = field(default_factory=list)
    begun: int | None = None  # the case under way
    deadline_s: float = START_S  # of what is under way
    since: float = field(default_factory=time.monotonic)
    skipped: str | None = None  # why the whole section is

    def read(self, line: dict[str, Any]) -> None:
        if "cases" in line:
            self.cases = line["cases"]
        elif "begin" in line:
            self.begun, self.deadline_s, self.since = line["begin"], line["deadline_s"], time.monotonic()
        elif "row" in line:
            self.rows.append(line["row"])
            self.begun, self.deadline_s, self.since = None, START_S, time.monotonic()
        elif "skipped" in line:
            self.skipped = line["skipped"]


def run_section(name: str, module: str, where: Where, folder: Path) -> list[Row]:
    """Rows of all cases of a section, one each, in order. folder: for the lines and the output of its processes."""
    rows: list[Row] = []
    number, cases = 0, None
    while time.time() < where.ends_at:
        stem = folder / f"{name}-{number}"
        progress, why = _run_process(module, where, stem, len(rows))
        number += 1
        rows += progress.rows
        cases = progress.cases or cases
        if progress.skipped is not None:
            return [{"case": name, "skipped": progress.skipped}]
        if time.time() >= where.ends_at:
            break
        if cases is None:
            return [{"case": name, "failed": why}]
        if progress.begun is not None or (not progress.rows and len(rows) < len(cases)):
            rows.append({"case": cases[len(rows)], "failed": why})
        if len(rows) >= len(cases):
            return rows
    if cases is None:
        return [{"case": name, "skipped": OUT_OF_TIME}]
    return rows + [{"case": case, "skipped": OUT_OF_TIME} for case in cases[len(rows) :]]


def _run_process(module: str, where: Where, stem: Path, first: int) -> tuple[Progress, str]:
    """The result of a section's process, and why it ended."""
    lines, log = stem.with_suffix(".jsonl"), stem.with_suffix(".log")
    lines.touch()
    command = [sys.executable, "-m", "benchmarks.gpu.child", module, json.dumps(asdict(where)), str(lines), str(first)]
    environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", **os.environ, "PYTHONUNBUFFERED": "1"}
    progress, late = Progress(), ""
    with log.open("w", encoding="utf-8") as out, lines.open(encoding="utf-8") as written:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            running = True
            while running:
                running = process.poll() is None  # asked first: what it wrote before its end is read after it
                for line in written:
                    progress.read(json.loads(line))
                over = time.monotonic() - progress.since > progress.deadline_s
                if running and (over or time.time() > where.ends_at):
                    late = f"no end after {progress.deadline_s:.0f} s" if over else OUT_OF_TIME
                    break
                time.sleep(0.05)
        finally:
            _end(process)
    return progress, late or _reason(process.returncode, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{ended}: {lines[-1][:200]}" if lines else ended
