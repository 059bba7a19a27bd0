"""Configuration: precedence, refusal of what is wrong, faithful presets."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config, save_config
from ilm_ray.config.fit import parameter_count
from ilm_ray.config.load import PRESETS, with_entry
from ilm_ray.config.run_folder import choose_settings
from ilm_ray.model.internlm2 import CausalLM, Shape


def test_override_beats_file_beats_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 7\nppo: {top_p: 0.5, iterations: 3}\n")
    config = load_config("nano", file, ["ppo.top_p=0.75"])
    assert (config.seed, config.ppo.iterations, config.ppo.top_p) == (7, 3, 0.75)


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("pretrain.wokers=2", "training.workers"),
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
        "training.log_every=0",
        "training.workers=3",  # does not share the sequences of a step evenly
        "preset=7b",
        "input=",
        "seed=-1",  # numpy's generators take none
        "long_text.scorer_lr=0",
        "seed=2020-99-99",  # YAML takes it for a date and then finds no such day
        "ppo.temperature=.nan",
        "a\nb=1",
    ],
)
def test_bad_values_are_one_line(setting: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("nano", None, [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["workers", "layout", "store", "warmup_ratio"])
def test_what_has_moved_is_refused_with_its_new_name(key: str, tmp_path: Path) -> None:
    """On the command line, in a file and in what a run folder remembers."""
    line = f"setting 'pretrain.{key}' is now 'training.{key}'"
    with pytest.raises(UserError, match=line) as caught:
        load_config("nano", None, [f"pretrain.{key}={{tp: 1}}"])
    assert "\n" not in str(caught.value)
    (tmp_path / "config.yaml").write_text(f"# resolved from preset nano\npretrain: {{{key}: 1}}\n")
    with pytest.raises(UserError, match=f"{line}; change {tmp_path}"):
        load_config("nano", tmp_path / "config.yaml")
    with pytest.raises(UserError, match=f"{line}.*correct or remove"):
        choose_settings(None, None, [], tmp_path)
    assert choose_settings("nano", None, [], tmp_path).config == load_config("nano")


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_configuration_loads_to_the_same(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, None, ["seed=99"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(preset, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", ["/data/a #1.jsonl", "/data/中文 文件.jsonl", "/data/a%20b?c", "/d/'q'"])
def test_a_name_is_taken_as_it_is_written(name: str, tmp_path: Path) -> None:
    config = load_config("nano", None, [f"sft.data={name}"])
    assert config.sft.data == name
    save_config(config, tmp_path / "config.yaml")
    assert load_config("nano", tmp_path / "config.yaml").sft.data == name
    assert load_config("nano", None, [f"sft.data='{name}'"] if "'" not in name else [f'sft.data="{name}"']) == config


def test_parameter_count_equals_the_model() -> None:
    config = load_config("nano")
    shape = Shape(vocab_size=512, **config.model.model_dump())
    assert parameter_count(config.model, 512) == sum(p.numel() for p in CausalLM(shape).parameters())


NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
TABLES = st.dictionaries(NAMES, st.text("xyz ", min_size=1, max_size=8).map(lambda t: f"Score {t.strip()}"), max_size=4)


@given(TABLES, st.lists(st.tuples(NAMES, st.sampled_from(["one", "two"])), max_size=4), st.integers(0, 4))
@settings(max_examples=25)
def test_a_key_within_a_table_is_set_alone_and_the_whole_is_replaced(
    table: dict[str, str], changes: list[tuple[str, str]], replaced_at: int
) -> None:
    """The oracle is a plain dict: `table.KEY=` is an assignment, `table={...}` another dict."""
    expected = dict(load_config("nano").reward.system_prompts)
    words = []
    for number in range(len(changes) + 1):
        if number == replaced_at:
            expected = dict(table)
            words.append(f"reward.system_prompts={json.dumps(table)}")
        for name, prompt in changes[number : number + 1]:
            expected[name] = prompt
            words.append(f"reward.system_prompts.{name}={prompt}")
    assert load_config("nano", None, words).reward.system_prompts == expected


NESTED = st.recursive(st.integers(), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6)


@given(
    st.dictionaries(NAMES, NESTED, max_size=3),
    st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), NESTED), max_size=4),
)
@settings(max_examples=40)
def test_nested_tables_are_changed_at_one_place_only(
    table: dict[str, object], changes: list[tuple[list[str], object]]
) -> None:
    """Whatever does not lie on the path of a change is as it was; what lies there is the new value."""
    for path, value in changes:
        changed = with_entry(table, path, value)
        assert flat(changed, without=path) == flat(table, without=path)
        inner: Any = changed
        for name in path:
            inner = inner[name]
        assert inner == value
        table = changed


def flat(table: dict[str, Any], without: list[str], at: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Leaves by path, those below, on and above `without` left out."""
    leaves: dict[tuple[str, ...], object] = {}
    for name, value in table.items():
        path = (*at, name)
        if path == tuple(without)[: len(path)]:
            leaves |= flat(value, without, path) if isinstance(value, dict) and len(path) < len(without) else {}
        else:
            leaves[path] = value
    return leaves


def test_a_key_of_a_table_keeps_what_a_file_said(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("reward: {system_prompts: {poetry: Score rhythm.}}\ntext: {rules: {en: {words: [10, 20]}}}\n")
    words = [
        "reward.system_prompts.code=Run it.",
        "text.rules.en.digit_ratio=[null, 0.5]",
        "text.rules.zh.words=[1, 2]",
    ]
    words += ["text.sources.books.input=/b/*.txt", "text.sources.books.settings.min_chars=5"]
    config = load_config("nano", file, words)
    assert config.reward.system_prompts == {"poetry": "Score rhythm.", "code": "Run it."}
    assert config.text.rules["en"]["words"] == (10, 20) and config.text.rules["en"]["digit_ratio"] == (None, 0.5)
    assert config.text.rules["zh"]["words"] == (1, 2)
    assert config.text.sources["books"].settings == {"min_chars": 5}
    with pytest.raises(UserError, match=r"system_prompts\.a"):
        load_config("nano", None, ["reward.system_prompts.a.b=x"])
