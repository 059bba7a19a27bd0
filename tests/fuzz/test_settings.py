"""Configuration files and `key=value` words: a configuration that is saved and read again, or one clear line."""

import functools
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from ilm_ray.config import Config, load_config, save_config
from ilm_ray.config.load import PRESETS
from tests.fuzz.limits import few, refusals
from tests.fuzz.made import ODD_TEXTS, damaged, rewritten, scalars, texts, values

FILES = [resources.files("ilm_ray.config").joinpath("presets", f"{preset}.yaml").read_bytes() for preset in PRESETS]
YAML_ODDITIES = (
    "2020-99-99", "!!bool x", "!!int ''", "!!float x", "!!timestamp x", "!!binary \u00e9", "!!python/name:os.system",
    "&a [*a]",
    "{<<: 1}", "{[1]: 2}", "? {a: b}\n: c", "0b2", "1:99:99", "9" * 5000, "!!set [1]", "%YAML 9.9\n--- 1", "---\n---",
    "[" * 9000,
    "{a: &x [1, 1], b: [*x, *x]}", "=", "!!map [1]", "!!omap [a]", ".nan", ".inf", "\ud800", "\x07",
)  # fmt: skip


@functools.cache
def all_keys() -> list[str]:
    keys = list[str]()

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            keys.append(prefix + name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, f"{prefix}{name}.")

    walk(Config, "")
    return keys


def kept_by_saving(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_config(config, Path(folder, "config.yaml"))
        assert load_config(config.preset, Path(folder, "config.yaml")) == config


def read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals():
        (Path(folder) / "own.yaml").write_bytes(content)
        kept_by_saving(load_config("nano", Path(folder) / "own.yaml"))


@pytest.mark.long
@given(st.one_of(damaged(FILES), st.sampled_from(YAML_ODDITIES).map(lambda t: t.encode("utf-8", "surrogatepass"))))
@example(b"seed: 2020-99-99")
@example(b"text: {sources: {b: {input: x, settings: {min_chars: q}}}}")
@few(12)
def test_any_file_is_a_configuration_or_is_refused(content: bytes) -> None:
    read(content)


LIKELY = {
    "seed": 1,
    "text": {"rules": {"en": {"words": [1, 2]}}, "sources": {"b": {"input": "x", "settings": {}}}},
    "reward": {"system_prompts": {"helpful": "x"}},
    "training": {"layout": "auto"},
}


@given(rewritten(LIKELY))
@few(25)
def test_any_values_are_a_configuration_or_are_refused(content: Any) -> None:
    read(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


KEYS = st.one_of(st.sampled_from(all_keys()), st.tuples(st.sampled_from(all_keys()), texts).map(".".join), texts)
VALUES = st.one_of(
    st.sampled_from(YAML_ODDITIES),
    st.sampled_from(ODD_TEXTS),
    scalars.map(str),
    values.map(lambda value: yaml.safe_dump(value, default_flow_style=True, width=10**6)),
)


@given(st.lists(st.tuples(KEYS, VALUES).map("=".join), min_size=1, max_size=3))
@example(["ppo.temperature=.nan"])
@example(["seed=" + "9" * 5000])
@example(["seed=!!bool x"])
@example(["a\nb=1"])
@few(40)
def test_any_words_are_settings_or_are_refused(words: list[str]) -> None:
    with refusals():
        kept_by_saving(load_config("nano", None, words))
