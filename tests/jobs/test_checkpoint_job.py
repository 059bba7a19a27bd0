"""Export and import from the command line, on a run folder with nothing but a tokenizer and a model in it."""

import json
from pathlib import Path

import pytest
import torch

from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.weights import full_weights, load_causal, save_internlm2
from ilm_ray.run.manifest import Manifest, commit
from jobs import checkpoint

SHAPE = Shape(vocab_size=300, layers=2, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)


@pytest.fixture()
def run_dir(tmp_path: Path) -> Path:
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(tmp_path / "tokenizer")
    model = CausalLM(SHAPE)
    initialize(model, 3)
    save_internlm2(model, tmp_path / "sft" / "model")
    save_internlm2(model, tmp_path / "reward" / "model")
    (tmp_path / "reward" / "model" / "model.safetensors").write_bytes(b"cut")
    return tmp_path


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_model_goes_out_is_used_and_comes_back(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, back = run_dir / "out", run_dir / "back"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = ["export", "--run-dir", str(run_dir), "--stage", "sft", "--out", str(out), "--dtype", "fp32"]
    assert checkpoint.main(arguments) == 0
    assert last_line(capsys)["status"] == "done"
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    answer = model.generate(torch.tensor([chat["input_ids"]]), max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > len(chat["input_ids"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id and end == Tokenizer.load(run_dir / "tokenizer").im_end_id
    assert checkpoint.main(["import", "--model", str(out), "--out", str(back)]) == 0
    ours, theirs = full_weights(load_causal(run_dir / "sft" / "model")), full_weights(load_causal(back))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--stage", "sft", "--run-dir", "{run}", "--out", "{run}/sft"], "is there already"),
        (["export", "--stage", "ppo", "--run-dir", "{run}", "--out", "{run}/x"], "no model of ours"),
        (["export", "--stage", "reward", "--run-dir", "{run}", "--out", "{run}/x"], "cannot be read"),
        (["export", "--stage", "sft", "--run-dir", "{run}/none", "--out", "{run}/x"], "no tokenizer"),
        (["export", "--stage", "tokens", "--run-dir", "{run}", "--out", "{run}/x"], "invalid choice"),
        (["import", "--model", "{run}/none", "--out", "{run}/x"], "config.json"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run_dir.rglob("*"))
    assert checkpoint.main([word.format(run=run_dir) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert json.loads(captured.out)["status"] == "refused"
    assert sorted(run_dir.rglob("*")) == before


def test_an_upload_without_a_token_lists_what_would_go(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    out = run_dir / "out"
    commit(run_dir / "sft", Manifest("sft", {}, {"conversations": "ab" * 32}, metrics={"summary": {"step": 3}}))
    arguments = ["export", "--run-dir", str(run_dir), "--stage", "sft", "--out", str(out), "--upload"]
    assert checkpoint.main([*arguments, "mine"]) == 2
    assert "'mine' is no model of the Hub" in capsys.readouterr().err and not out.exists()
    assert checkpoint.main([*arguments, "hf://me/mine"]) == 0
    printed = capsys.readouterr().out.splitlines()
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in printed[:-2]}
    assert sizes == {path.name: path.stat().st_size for path in out.iterdir()}
    assert json.loads(printed[-1])["upload"] == {
        "to": "hf://me/mine", "dry_run": True, "files": len(sizes), "bytes": sum(sizes.values()),
    }  # fmt: skip
    card = (out / "README.md").read_text()
    assert "| sft | step 3 | a file (SHA-256 abababababab...) |" in card and "pipeline_tag: text-generation" in card
