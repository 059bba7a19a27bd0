"""A run from somebody's model on Ray: SFT, reward model and PPO; killed in one stage it ends as if it had not been."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.run import manifest as manifests
from ilm_ray.run.journal import read_journal
from jobs import checkpoint
from tests.chaos.test_killed_driver import kill_when
from tests.jobs.test_command_line import REPOSITORY
from tests.jobs.toy_model import toy_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SETTINGS = """
input: null
training: {log_every: 1, workers: 1}
sft: {epochs: 2, context: 256, batch_tokens: 1024, checkpoint_every: 1}
reward: {epochs: 1, context: 256}
ppo: {iterations: 2, critic_warmup: 0, prompts_per_iteration: 8, max_new_tokens: 8, max_prompt_tokens: 300,
      rollout_backend: torch, policy_ranks: 1, validate_every: null}
evaluation: {heldout_prompts: 4}
ray: {dashboard: false}
"""


def _start(job: str, run_dir: Path, folder: Path) -> subprocess.Popen[str]:
    words = [f"base={folder / 'mine'}", *(["from=sft"] if job == "pipeline" else [])]
    words += [f"sft.data={folder / 'chat'}", f"reward.data={folder / 'pairs'}", f"ppo.prompts={folder / 'p'}"]
    return subprocess.Popen(
        [sys.executable, f"jobs/{job}.py", "--run-dir", str(run_dir), "--config", str(folder / "s.yaml"), *words],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=900)
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert process.returncode == 0, last
    return last


@pytest.mark.timeout(1800)
def test_a_run_from_a_model_of_somebodys(tmp_path: Path) -> None:
    toy_model(tmp_path / "mine")
    (tmp_path / "s.yaml").write_text(SETTINGS)
    demo = REPOSITORY / "demo" / "data"
    for name, source, most in (("chat", "chat", 40), ("pairs", "preferences", 60), ("p", "prompts", 60)):
        rows = list(read_jsonl(demo / f"{source}.jsonl"))
        write_jsonl(tmp_path / name, rows[:: max(1, len(rows) // most)])
    alone, run = tmp_path / "alone", tmp_path / "run"
    _end(_start("sft", alone, tmp_path))
    killed = _start("pipeline", run, tmp_path)
    kill_when(killed, lambda: any((run / "sft" / "checkpoints").glob("*/COMMIT")))
    whole = _end(_start("pipeline", run, tmp_path))
    assert {"base/model", "tokenizer", "sft", "reward", "ppo", "online", "evaluation"} <= whole.keys()
    models = [manifests.load(folder / "sft") for folder in (alone, run)]
    assert models[0] is not None and models[1] is not None
    assert models[0].files["model/model.safetensors"] == models[1].files["model/model.safetensors"]
    assert models[1].metrics["off"] == {"sft.pretrain_share": "no pre-training data"}
    began = time.time()
    _end(_start("pipeline", run, tmp_path))
    rows = [row for row in read_journal(run / "journal.jsonl") if row["time"] >= began]
    assert {row["kind"] for row in rows if "stage" in row} == {"skip"}
    assert any("off: no pre-training data" in row.get("why", "") for row in rows)
    report = (run / "report.html").read_text()
    assert "Models from outside" in report and "Pre-training has not started" not in report

    out = tmp_path / "out"
    assert checkpoint.main(["export", "--run-dir", str(run), "--stage", "ppo", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    card = (out / "README.md").read_text()
    assert "| model | mine | Qwen2ForCausalLM |" in card and str(tmp_path) not in card
