"""What becomes of a job that is hit: seeded faults against the stages of a run on a Ray of three nodes, and a table.

    python -m tests.chaos.table --base RUN [--out DIR] [--runs 100] [--seed 0] [--stages S ...] [--faults F ...]

RUN is a finished run (`make demo`), from which each stage gets what it reads. A stage is run undisturbed first, for its
results and its time; then each run hits it once, at a random moment, and starts it again where it stopped. A run is
sound only if it ends with the same results, bit for bit, and where the job stopped, if it said why. Rows are appended
to DIR/runs.jsonl, and what is there already is not run again, so a hundred runs may take several evenings.

Needs root and Linux: nodes have networks of their own, which are cut by pulling their cables; full disks are small ones
in memory, slow ones a folder seen through bindfs (a Debian package); who has no memory left is killed by the kernel in
a control group of 1 MiB. The clock that jumps is Python's, not that of Ray's own processes.
"""

import argparse
import itertools
import json
import logging
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, MISSED, Scene
from tests.chaos.nodes import Nodes

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 900.0  # of one start of a job: hangs are told by it
STARTS = 3
LOGS = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")  # results beside these hold no times
SETTINGS = """
training: {log_every: 1, hang_s: 40}
pretrain:
  checkpoint_every: 5
  phases:
    - {name: only, steps: 60, context: 256, rope_base: 50000, batch_tokens: 4096, max_lr: 1.0e-3, mixture: {en: 1.0}}
sft: {epochs: 1}
reward: {epochs: 1}
ppo: {iterations: 8, critic_warmup: 1, prompts_per_iteration: 16, max_new_tokens: 16, checkpoint_every: 2,
      rollout_backend: torch, deadline_s: 60}
ray: {dashboard: false, hang_s: 40}
"""
# Stage -> its job and what a run has before it.
STAGES = {
    "text": ("web_text", ()),
    "tokens": ("tokenize_corpus", ("text", "code", "decontamination", "tokenizer")),
    "pretrain": ("pretrain", ("tokenizer", "tokens", "long_text")),
    "reward": ("reward", ("tokenizer", "sft")),
    "ppo": ("ppo", ("tokenizer", "tokens", "long_text", "sft", "reward")),
}
WENT_ON, CAME_BACK = "went on by itself", "stopped, said why, went on when started again"
SOUND = (WENT_ON, CAME_BACK)


@dataclass(frozen=True)
class Row:
    """One run. seconds: of all starts together; usual_s: of an undisturbed run."""

    number: int
    stage: str
    fault: str
    struck: str
    at_s: float
    outcome: str
    starts: int
    seconds: float
    usual_s: float
    said: str


@dataclass
class Attempt:
    """A start of a job: exit code (None: it hung) and the error, or where its evidence lies, as its last line tells;
    where Ray ended it, for a driver without a head is ended at once, what Ray said."""

    code: int | None
    message: str


@dataclass
class Chaos:
    base: Path
    out: Path
    nodes: Nodes
    usual: dict[str, tuple[float, dict[str, str]]] = field(default_factory=dict)  # seconds and results of each stage

    def prepare(self, stage: str, run_dir: Path) -> None:
        run_dir.mkdir(parents=True)
        for name in STAGES[stage][1]:
            if (self.base / name).exists():
                (run_dir / name).symlink_to(self.base / name, target_is_directory=True)

    def start(self, stage: str, scene: Scene, name: str) -> subprocess.Popen[str]:
        """name: of its log."""
        command = [sys.executable, str(REPOSITORY / "jobs" / f"{STAGES[stage][0]}.py"), "--run-dir", str(scene.run_dir)]
        command += ["--config", str(self.out / "settings.yaml"), *scene.arguments]
        with (self.out / f"{name}.log").open("w") as log:
            return self.nodes.start(command, scene.env, log)

    def reference(self, stage: str) -> tuple[float, dict[str, str]]:
        """Of an undisturbed run, made once."""
        if stage not in self.usual:
            run_dir, seconds = self.out / f"usual-{stage}", self.out / f"usual-{stage}.seconds"
            if not seconds.exists():
                shutil.rmtree(run_dir, ignore_errors=True)
                self.prepare(stage, run_dir)
                started = time.monotonic()
                with ExitStack() as stack:
                    scene = Scene(self.nodes, run_dir, random.Random(0), stack)
                    done = self.ended(self.start(stage, scene, run_dir.name), run_dir.name)
                if done.code != 0:
                    raise RuntimeError(f"{stage} fails without any fault: {done.message}; see {run_dir}.log")
                seconds.write_text(str(time.monotonic() - started))
            self.usual[stage] = float(seconds.read_text()), results(run_dir, stage)
        return self.usual[stage]

    def play(self, number: int, stage: str, fault: str, seed: int, latest: float = 0.9) -> Row:
        """latest: moment to strike at, as a share of an undisturbed run. A job that was not hit, for it had ended or
        nobody was at work, is played again, to be hit earlier."""
        rng = random.Random(f"{seed}-{number}")
        usual_s, wanted = self.reference(stage)
        at_s = rng.uniform(0.15, latest) * usual_s
        with ExitStack() as stack:
            name = f"run-{number:03d}"
            scene = Scene(self.nodes, self.out / name, rng, stack)
            FAULTS[fault].before(scene)
            run_dir = scene.run_dir
            shutil.rmtree(run_dir, ignore_errors=True)  # of a table that was cut off
            self.prepare(stage, run_dir)
            began = time.monotonic()
            job = self.start(stage, scene, f"{name}-0")
            struck, attempts = MISSED, list[Attempt]()
            if not _ends_within(job, at_s):
                struck = FAULTS[fault].strike(scene, job)
            attempts.append(self.ended(job, f"{name}-0"))
            FAULTS[fault].after(scene)
            while attempts[-1].code not in (0, None) and len(attempts) < STARTS:
                log = f"{name}-{len(attempts)}"
                attempts.append(self.ended(self.start(stage, scene, log), log))
            seconds = time.monotonic() - began
            same = attempts[-1].code == 0 and results(run_dir, stage) == wanted
            outcome = outcome_of(attempts, same, silent_end=fault in ("driver killed", "checkpoint damaged"))
            if outcome in SOUND:
                shutil.rmtree(run_dir)
        if struck == MISSED and outcome == WENT_ON:
            return self.play(number, stage, fault, seed, latest * 0.6)
        codes = f"exit codes {', '.join(str(attempt.code) for attempt in attempts)}"
        message = next((attempt.message for attempt in attempts if attempt.message), "" if outcome in SOUND else codes)
        return Row(number, stage, fault, struck, at_s, outcome, len(attempts), seconds, usual_s, message)

    def ended(self, job: subprocess.Popen[str], name: str) -> Attempt:
        """Wait for a job; one that hangs is killed. name: as of `start`."""
        try:
            out, _ = job.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            job.kill()
            job.communicate()
            return Attempt(None, "")
        return Attempt(
            job.returncode, said_by(out, (self.out / f"{name}.log").read_text(encoding="utf-8", errors="replace"))
        )


def said_by(out: str, log: str) -> str:
    """Why a job ended, from what it wrote to stdout and stderr; "" where it does not say."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    summary = json.loads(lines[-1]) if lines else {}
    ray = re.search(r"Failed to connect to GCS within .*", log)
    return str(summary.get("error") or summary.get("evidence") or (ray[0] if ray else ""))


def _ends_within(job: subprocess.Popen[str], seconds: float) -> bool:
    try:
        job.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def outcome_of(attempts: list[Attempt], same: bool, silent_end: bool) -> str:
    """silent_end: the fault leaves the job no time for a word."""
    if any(attempt.code is None for attempt in attempts):
        return "HUNG"
    if attempts[-1].code != 0:
        return "DID NOT GO ON"
    if not same:
        return "OTHER RESULTS"
    if len(attempts) == 1:
        return WENT_ON
    stopped = [a for a in attempts[:-1] if not a.message and a.code != 128 + signal.SIGTERM]
    return CAME_BACK if silent_end or not stopped else "STOPPED WITHOUT A WORD"


def results(run_dir: Path, stage: str) -> dict[str, str]:
    """Hashes of what later stages read."""
    files = json.loads((run_dir / stage / "manifest.json").read_text(encoding="utf-8"))["files"]
    return {name: entry["sha256"] for name, entry in files.items() if not name.endswith(LOGS)}


def drawn(stages: list[str], faults: list[str], runs: int, seed: int) -> list[tuple[str, str]]:
    """Every fault meets every stage that it can, equally often, in an order of the seed's."""
    pairs = [(s, f) for s, f in itertools.product(stages, faults) if FAULTS[f].only in (None, s)]
    random.Random(seed).shuffle(pairs)
    return list(itertools.islice(itertools.cycle(pairs), runs))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: fault x stage -> how often each outcome, and the median of the seconds that it cost."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["fault"], row["stage"]].append(row)
    stages = [s for s in STAGES if any(row["stage"] == s for row in rows)]
    lines = [f"| fault | {' | '.join(stages)} |", f"|---|{'---|' * len(stages)}"]
    for fault in FAULTS:
        columns = [_cell(cells[fault, stage]) for stage in stages]
        if any(columns):
            lines.append(f"| {fault} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    outcomes = sorted({row["outcome"] for row in rows}, key=lambda o: (o not in SOUND, o))
    parts = [f"{sum(row['outcome'] == o for row in rows)} {o}" for o in outcomes]
    if rows:
        parts.append(f"{statistics.median(row['seconds'] - row['usual_s'] for row in rows):+.0f} s")
    return ", ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="a finished run")
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    arguments = parser.parse_args()
    base, out = arguments.base.absolute(), arguments.out.absolute()
    if not (base / "ppo" / "manifest.json").exists():
        parser.error(f"--base={base} is not a finished run; make one with `make demo RUN_DIR={base}`")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the S3 server tells of every request
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    log = out / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = {row["number"] for row in rows}
    planned = enumerate(drawn(arguments.stages, arguments.faults, arguments.runs, arguments.seed))
    with Nodes(REPOSITORY, out / "nodes") as nodes:
        chaos = Chaos(base, out, nodes)
        for number, (stage, fault) in planned:
            if number in done:
                continue
            row = asdict(chaos.play(number, stage, fault, arguments.seed))
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows.append(row)
            print(
                f"{len(rows)}/{arguments.runs} {stage}, {fault}: {row['struck']} at {row['at_s']:.0f} s: "
                f"{row['outcome']}, {row['seconds']:.0f} s instead of {row['usual_s']:.0f} {row['said'][:150]}",
                file=sys.stderr,
                flush=True,
            )
    print(table(rows))
    return int(any(row["outcome"] not in SOUND for row in rows))


if __name__ == "__main__":
    sys.exit(main())
