"""kill -9 on the driver in the middle of a stage: started again, the run goes on and ends with the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ilm_ray.config.road import STAGES

REPOSITORY = Path(__file__).parents[2]
SMALL = """
training: {log_every: 1}
pretrain:
  checkpoint_every: 5
  phases:
    - {name: short, steps: 20, context: 128, rope_base: 50000, batch_tokens: 1024, max_lr: 1.0e-3,
       mixture: {en: 0.5, zh: 0.25, code: 0.25}}
    - {name: long, steps: 10, context: 512, rope_base: 1000000, batch_tokens: 1024, max_lr: 5.0e-4,
       mixture: {en: 1.0}}
long_text: {scorer_steps: 5, scorer_batch_tokens: 1024}
sft: {epochs: 1}
reward: {epochs: 1}
ppo: {iterations: 6, critic_warmup: 1, prompts_per_iteration: 16, max_new_tokens: 16, checkpoint_every: 2,
      rollout_backend: torch, max_prompt_tokens: 200}
evaluation: {heldout_prompts: 8, heldout_sequences: 2}
ray: {dashboard: false}
"""


def start(run_dir: Path, settings: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "jobs/pipeline.py", "--run-dir", str(run_dir), "--config", str(settings)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """SIGKILL to the driver alone, as soon as `reached`; then its Ray must vanish by itself."""
    deadline = time.monotonic() + 900
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Ray's agents notice the death of their raylet only after a minute or so.
    _, alive = psutil.wait_procs(family, timeout=150)
    assert not alive, f"left behind: {[p.name() for p in alive]}"


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def kept_files(run_dir: Path) -> dict[str, str]:
    """Hashes of all that later stages read, from the manifests; logs with timings are left out."""
    out = {}
    for stage in STAGES[:-1]:
        files = json.loads((run_dir / stage / "manifest.json").read_text())["files"]
        logs = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")
        out |= {f"{stage}/{n}": e["sha256"] for n, e in files.items() if not n.endswith(logs)}
    return out


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_in_text_pretraining_and_ppo_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = tmp_path / "small.yaml"
    settings.write_text(SMALL)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole, settings)
    out, _ = undisturbed.communicate(timeout=1200)
    assert undisturbed.returncode == 0, out

    kill_when(start(killed, settings), lambda: any((killed / "text").glob("cleaned/kept-*")))
    kill_when(start(killed, settings), lambda: lines(killed / "pretrain" / "metrics.jsonl") >= 12)
    assert (killed / "text" / "manifest.json").exists()
    kill_when(start(killed, settings), lambda: lines(killed / "ppo" / "metrics.jsonl") >= 5)
    last = start(killed, settings)
    out, _ = last.communicate(timeout=1200)
    assert last.returncode == 0, out

    journal = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    resumed = [e["stage"] for e in journal if e["kind"] == "run" and "partial results" in e["why"]]
    assert resumed == ["text", "pretrain", "ppo"]
    assert kept_files(killed) == kept_files(whole)
    assert [json.loads(r)["step"] for r in (killed / "pretrain" / "metrics.jsonl").open()] == list(range(1, 31))

    started = time.monotonic()
    again = start(killed, settings)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert time.monotonic() - started < 60
    journal = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in journal[-len(STAGES) :]] == ["skip"] * len(STAGES)
