"""Configuration: precedence, refusal of what is wrong, faithful presets."""

from pathlib import Path

import pytest

from ilm_ray.config import load_config, save_config
from ilm_ray.config.fit import check_fits, parameter_count
from ilm_ray.config.load import PRESETS
from ilm_ray.errors import UserError
from ilm_ray.model.internlm2 import CausalLM, Shape


def test_override_beats_file_beats_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 7\nppo: {top_p: 0.5, iterations: 3}\n")
    config = load_config("nano", file, ["ppo.top_p=0.75"])
    assert (config.seed, config.ppo.iterations, config.ppo.top_p) == (7, 3, 0.75)


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("pretrain.wokers=2", "pretrain.workers"),
        ("ppo.top_k=2", "ppo.top_p"),
        ("modle.layers=2", "model"),
        ("iterations=2", "ppo.iterations"),
    ],
)
def test_unknown_key_names_the_nearest(setting: str, hint: str) -> None:
    with pytest.raises(UserError, match=rf"unknown setting.*did you mean '{hint}'"):
        load_config("nano", None, [setting])


@pytest.mark.parametrize(
    "setting",
    [
        "ppo.top_p=high",
        "model.hidden=100",
        "nonsense",
        "text=3",
        "seed=[1,",
        "text.ngram=0",
        "text.threshold=5",
        "pretrain.log_every=0",
        "pretrain.workers=3",  # does not share the sequences of a step evenly
        "preset=7b",
        "input=",
        "seed=-1",  # numpy's generators take none
        "long_text.scorer_lr=0",
    ],
)
def test_bad_values_are_one_line(setting: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("nano", None, [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_configuration_loads_to_the_same(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, None, ["seed=99"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(preset, tmp_path / "config.yaml") == config


def test_parameter_count_equals_the_model() -> None:
    config = load_config("nano")
    shape = Shape(vocab_size=512, **config.model.model_dump())
    assert parameter_count(config.model, 512) == sum(p.numel() for p in CausalLM(shape).parameters())


def test_a_preset_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="does not fit"):
        check_fits(load_config("1_8b"), cpus=64, gpus=0, memory_gib=16)
    check_fits(load_config("nano"), cpus=4, gpus=0, memory_gib=8)
