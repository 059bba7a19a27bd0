"""A wrong folder is named as the thing it is, before a server starts."""

import json
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config, save_config
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape, initialize
from ilm_ray.model.weights import save_internlm2
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest
from ilm_ray.serving.folder import is_exported, servable
from tests.alignment.small_run import make_run

SHAPE = Shape(320, 2, 64, 2, 1, 32, 96)


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    make_run(tmp_path)
    save_config(load_config("nano"), tmp_path / "config.yaml")
    scorer = ScalarModel(SHAPE)
    initialize(scorer, 0)
    save_internlm2(scorer, tmp_path / "reward" / "model")
    manifests.commit(tmp_path / "tokens", Manifest("tokens", {}, {}))
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "in_progress").write_text("x")
    (tmp_path / "step-00000010").mkdir()
    (tmp_path / "step-00000010" / "COMMIT").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("reward", "a reward model of ours, which gives scores and no answers"),
        ("reward/model", "a reward model of ours"),
        (".", "a run, whose stages with a model are pretrain, reward, sft"),
        ("tokens", "a stage that has no model"),
        ("ppo", "a stage that has not finished"),
        ("tokenizer", "a tokenizer"),
        ("step-00000010", "a checkpoint"),
        ("nowhere", "not there"),
        ("chat.jsonl", "a file"),
        ("sft/repositories", "not there"),
    ],
)
def test_a_folder_that_no_server_can_serve_is_named(run: Path, place: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"is {kind}"):
        is_exported(run / place)


def test_an_exported_reward_model_is_named_too(run: Path, tmp_path: Path) -> None:
    for model, folder in ((ScalarModel(SHAPE), "scores"), (CausalLM(SHAPE), "answers")):
        initialize(model, 1)
        out = tmp_path / folder
        out.mkdir()
        export_model(model, out, None, None, {}, None)
        (out / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="which gives scores and no answers"):
        is_exported(tmp_path / "scores")
    assert is_exported(tmp_path / "answers")
    (tmp_path / "answers" / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        is_exported(tmp_path / "answers")


def test_a_model_with_a_flipped_bit_is_not_served(run: Path, tmp_path: Path) -> None:
    folder = run / "sft"
    files = [folder / "model" / name for name in ("model.safetensors", "shape.json")]
    manifests.commit(folder, Manifest("sft", {}, {}, manifests.describe_files(folder, files)))
    (tmp_path / "out").mkdir()
    servable(folder, tmp_path / "out", "fp32")
    assert json.loads((tmp_path / "out" / "config.json").read_text())
    data = bytearray(files[0].read_bytes())
    data[-5] ^= 16
    files[0].write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors has another SHA-256"):
        servable(folder, tmp_path / "out", "fp32")


def test_another_user_can_read_what_is_exported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    servable(run / "sft", tmp_path / "out", "fp32")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    stage = {path.name: path.stat().st_mode & 0o777 for path in (run / "sft" / "model").iterdir()}
    assert {*modes.values(), *stage.values()} == {modes["config.json"]} and len(modes) >= 4
    assert modes["config.json"] & 0o044 == 0o044, "by the umask of these tests"
