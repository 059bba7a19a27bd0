"""ls, verify, promote and export of a step, on a stage with three checkpoints."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.model.weights import full_weights, load_causal, load_shape, save_internlm2
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from jobs import checkpoint
from tests.jobs.test_checkpoint_job import SHAPE
from tests.processes import run_ranks
from tests.training.checkpoints.small import flip

pytestmark = pytest.mark.ranks

STEP = 1e-3  # by which AdamW's first steps move every weight that has a gradient of one sign


def _train(folder: str, url: str) -> None:
    model = CausalLM(SHAPE)
    initialize(model, 3)
    optimizer = AdamW(model.parameters(), lr=STEP, weight_decay=0.0)
    checkpoints = Checkpoints(Path(folder) / "checkpoints", Storage(keep_local=3, store=url))
    for step in (1, 2, 3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        model.model.shape = replace(SHAPE, rope_base=1000.0 * step, context=100 * step)
        save_internlm2(model, Path(folder) / f"model-{step}")
        state = {"tokens": 100 * step, "shape": asdict(model.shape)}
        checkpoints.save(step, [(model, optimizer)], state, last=step == 3)
    checkpoints.finish()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("made") / "run"
    folder = run / "pretrain"
    folder.mkdir(parents=True)
    settings: dict[str, Any] = {"steps": 3}
    url = f"{run.parent / 'store'}/run/pretrain/{manifests.digest([settings, {}])}"
    run_ranks(_train, 1, str(folder), url)
    shutil.copytree(folder / "model-3", folder / "model")
    rows = [{"step": step, "loss": 4.0 - step, "tokens_per_second": 10.0 * step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [folder / "model" / "model.safetensors", folder / "model" / "shape.json", folder / "metrics.jsonl"]
    summary = {"step": 3, "loss": 1.0, "tokens": 300, "tokens_per_second": 30.0}
    described = manifests.describe_files(folder, files)
    manifests.commit(folder, Manifest("pretrain", settings, {}, described, {"summary": summary}))
    (run / "config.yaml").write_text(f"training: {{store: '{run.parent / 'store'}'}}\n")
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(run / "tokenizer")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(made, tmp_path / "run")
    yield tmp_path / "run"


def ask(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON line, all that was printed before it."""
    code = checkpoint.main([words[0], "--run-dir", str(run), "--stage", "pretrain", *words[1:]])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]), "\n".join(lines[:-1]) + captured.err


def test_ls_tells_what_lies_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = run / "pretrain" / "checkpoints"
    (checkpoints / "step-00000004").mkdir()
    (checkpoints / "step-00000002" / "__0_0.distcp").write_bytes(b"short")
    code, line, words = ask(capsys, run, "ls")
    assert code == 0
    rows = [(row["step"], row["tier"], row["note"]) for row in line["checkpoints"]]
    assert [row[:2] for row in rows] == [
        *((4, "local"), (3, "local"), (3, "store"), (2, "local"), (2, "store"), (1, "local"), (1, "store")),
    ]
    assert [row[2] for row in rows if row[1] == "local"] == [
        *("not committed", "", "__0_0.distcp is missing or has another size", ""),
    ]
    assert "300" in words and "committed" in words
    (run / "config.yaml").write_text("training: {store: 'nosuch://x'}\n")
    assert ask(capsys, run, "ls")[0] == 2


def test_verify_names_the_damaged_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, run, "verify")[:2] == (
        0,
        {"job": "checkpoint", "verb": "verify", "stage": "pretrain", "whole": [1, 2, 3], "status": "done"},
    )
    flip(run / "pretrain" / "checkpoints" / "step-00000002" / "__0_0.distcp")
    code, line, words = ask(capsys, run, "verify")
    assert code == 2 and "step-00000002: __0_0.distcp has another SHA-256" in line["error"]
    assert "step-00000003  whole" in words
    assert ask(capsys, run, "verify", "--step", "3")[0] == 0
    for words_of_refused in (("promote", "--step", "2"), ("export", "--step", "2", "--out", "x")):
        assert ask(capsys, run, *words_of_refused)[0] == 2
    assert "it has 1, 2, 3" in ask(capsys, run, "promote", "--step", "7")[2]


def test_promote_changes_the_model_and_the_manifest_stays_true(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "pretrain"
    before = manifests.load(folder)
    assert before is not None
    code, line, _ = ask(capsys, run, "promote", "--step", "2")
    assert code == 0
    promoted, expected = load_causal(folder / "model"), load_causal(folder / "model-2")
    assert all(torch.equal(a, b) for a, b in zip(promoted.parameters(), expected.parameters(), strict=True))
    promoted_shape = load_shape(folder / "model")
    assert (promoted_shape.rope_base, promoted_shape.context) == (2000.0, 200)
    after = manifests.load(folder)
    assert after is not None and after.fingerprint != before.fingerprint  # what reads the model runs again
    assert manifests.why_stale(after, folder, before.settings, before.inputs) is None  # the stage does not
    assert after.files == manifests.describe_files(folder, [folder / name for name in before.files])
    assert after.metrics["summary"] == {"step": 2, "loss": 2.0, "tokens": 200, "tokens_per_second": 20.0}
    assert after.metrics["promoted"] == 2 and line["promoted"]["step"] == 2
    assert not (folder / "in_progress").exists()


def test_a_validated_policy_of_ppo_is_promoted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "ppo"
    shutil.copytree(run / "pretrain" / "model-3", folder / "model")
    for iteration in (2, 4):
        shutil.copytree(
            run / "pretrain" / f"model-{iteration // 2}", folder / "candidates" / f"iteration-00000{iteration}"
        )
    files = manifests.describe_files(folder, sorted((folder / "model").iterdir()))
    manifests.commit(folder, Manifest("ppo", {}, {}, files, {"summary": {"reward": 1.0}}))
    ppo = ["promote", "--run-dir", str(run), "--stage", "ppo", "--step"]
    assert checkpoint.main([*ppo, "3"]) == 2 and "it has 2, 4" in capsys.readouterr().err
    assert checkpoint.main([*ppo, "4"]) == 0
    promoted, expected = load_causal(folder / "model"), load_causal(folder / "candidates" / "iteration-000004")
    assert all(torch.equal(a, b) for a, b in zip(promoted.parameters(), expected.parameters(), strict=True))
    after = manifests.load(folder)
    assert after is not None and after.metrics == {"summary": {"reward": 1.0}, "promoted": 4}
    assert after.files == manifests.describe_files(folder, [folder / name for name in files])
    assert after.files != files and manifests.why_stale(after, folder, {}, {}) is None


def test_export_of_a_step_is_that_steps_model(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    code, line, _ = ask(capsys, run, "export", "--step", "1", "--dtype", "fp32", "--out", str(out))
    assert code == 0 and line["step"] == 1
    assert checkpoint.main(["import", "--model", str(out), "--out", str(back)]) == 0
    ours, theirs = full_weights(load_causal(run / "pretrain" / "model-1")), full_weights(load_causal(back))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    exported = json.loads((out / "config.json").read_text())
    assert (exported["rope_theta"], exported["max_position_embeddings"]) == (1000.0, 100)
    assert load_shape(back).context == 100
    assert commit.newest_step(run / "pretrain" / "checkpoints") == 3
