"""docs/rewards.md: its function, its settings and its row of prompts, run as they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.docs.test_docs_true import REPOSITORY, blocks
from tests.jobs.toy_model import toy_model

PAGE = REPOSITORY / "docs" / "rewards.md"
SMALL = [
    "input=null", "ppo.iterations=2", "ppo.prompts_per_iteration=4", "ppo.max_new_tokens=8",
    "ppo.max_prompt_tokens=200", "ppo.rollout_backend=torch", "ppo.policy_ranks=1", "ppo.validate_every=null",
    "evaluation.heldout_prompts=4", "ray.dashboard=false",
]  # fmt: skip


def started(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "pipeline.py"), "from=ppo", f"base={folder / 'mine'}", *words],
        cwd=folder, capture_output=True, text=True, timeout=500,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.slow  # a minute: PPO and evaluation as a job
@pytest.mark.timeout(900)
def test_the_pages_reward_is_what_a_run_learns_from(tmp_path: Path) -> None:
    (module,), (settings,), (row,) = (blocks(PAGE, kind) for kind in ("python", "yaml", "json"))
    assert len(module.strip().splitlines()) <= 15
    toy_model(tmp_path / "mine")
    (tmp_path / "my_reward.py").write_text(module)
    (tmp_path / "mine.yaml").write_text(settings)
    first = json.loads(row)
    words = [["a"], ["e", "o"], ["the"], ["1"]]
    rows = [
        first | {"id": f"p{n}", "split": split, "metadata": {"words": words[n % 4]}}
        for n, split in enumerate(["train"] * 6 + ["heldout"] * 4)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = tmp_path / "run"
    code, summary = started(tmp_path, "--preset", "nano", "--config", "mine.yaml", "--run-dir", str(run), *SMALL)
    assert code == 0, summary
    scope: dict[str, Any] = {}
    exec(module, scope)
    metrics = [json.loads(line) for line in (run / "ppo" / "metrics.jsonl").read_text().splitlines()]
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    tokenizer = open_tokenizer(run / "tokenizer")
    for line in metrics:
        (path,) = (run / "ppo" / "rollouts").glob(f"iteration-{line['iteration']:06d}.parquet")
        answers = pq.read_table(path).to_pylist()
        assert len(answers) == 16
        for answer in answers:
            ids = answer["response"]
            ids = ids[:-1] if ids[-1] in (tokenizer.turn_end_id, tokenizer.eos_id) else ids
            text, given = tokenizer.decode(ids), json.loads(answer["row"])
            parts = scope["tidy"](given["prompt"], text, given["metadata"], most=30)
            expected = sum(parts.values()) + 0.1 * (1 <= len(text.strip()) <= 400)
            assert answer["score"] == pytest.approx(expected)
        assert line["unscored"] == 0
    page = (run / "report.html").read_text()
    assert "Parts of the reward" in page and "mine/covers" in page
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert set(evaluation["alignment"]) == {"sft", "ppo"} and not (run / "reward").exists()
    # The same command has nothing left to do.
    stamp = (run / "ppo" / "metrics.jsonl").stat().st_mtime_ns
    assert started(tmp_path, "--run-dir", str(run))[0] == 0
    assert (run / "ppo" / "metrics.jsonl").stat().st_mtime_ns == stamp


@pytest.mark.process
def test_what_cannot_be_run_is_refused_in_a_line_before_anything_is_written(tmp_path: Path) -> None:
    toy_model(tmp_path / "mine")
    (tmp_path / "mine.yaml").write_text(blocks(PAGE, "yaml")[0])
    rows = [json.loads(blocks(PAGE, "json")[0]) | {"split": split} for split in ("train", "heldout")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--run-dir", str(tmp_path / "run"), "--preset", "nano", "--config", "mine.yaml", *SMALL]
    for rewards, why in (
        ("[{by: 'no_such_module:score'}]", "no module 'no_such_module'"),
        ("[{by: mathematics}]", "prompt p1 has no metadata.answer"),
        ("[{by: length, domains: [poetry]}]", "no part of ppo.rewards judges domain 'helpful'"),
        ("[{by: length}, {by: length}]", "two parts called 'length'"),
        ("[{by: poetry}]", "ppo.rewards"),
    ):
        code, summary = started(tmp_path, *common, f"ppo.rewards={rewards}")
        assert code == 2 and why in summary["error"], summary
        assert not (tmp_path / "run").exists()
