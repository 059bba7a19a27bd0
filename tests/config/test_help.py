"""Settings in `--help`: all of a section, with the values of the preset and the words beside each field."""

import io
import re
import tokenize
from pathlib import Path

import pytest

from ilm_ray.config import Config, alignment, data, load_config
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.help import comments, settings_help
from tests.fuzz.test_settings import all_keys

KEY = re.compile(r"^  ([\w.]+)=", re.MULTILINE)


def test_every_setting_is_listed_once_with_the_value_of_the_preset() -> None:
    """The oracle walks the sections; a section that may be absent or a word has its own keys listed too."""
    shown = settings_help(load_config("7b"), [name for name in Config.model_fields if name != "preset"])
    keys, listed = [key for key in all_keys() if key != "preset"], KEY.findall(shown)
    sections = {key.rsplit(".", 1)[0] for key in listed if "." in key} | {"text.classifiers"}
    assert len(listed) == len(set(listed))
    assert {key for key in keys if key not in sections} <= set(listed)
    assert "  training.workers=int " in shown and "(default: 32)" in shown
    assert "  training.precision={fp32,bf16} " in shown
    assert re.search(r"pretrain\.phases=.*\(default: that of the preset\)", shown), "a long value is not spelt out"
    assert max(map(len, shown.splitlines())) <= 120


def test_only_what_a_job_reads_is_listed() -> None:
    assert {key.split(".")[0] for key in KEY.findall(settings_help(load_config("nano"), ["seed", "sft"]))} == {
        "seed",
        "sft",
    }


@pytest.mark.parametrize("module", [alignment, data])
def test_a_comment_behind_a_field_describes_it(module: object) -> None:
    """Against Python's own tokens: a comment on the line on which a field of a section begins."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    beside = {
        token.start[0]: token.string.removeprefix("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line[:4] == "    " and token.line[4] not in "# "
    }
    described = " ".join(
        text
        for section in vars(module).values()
        if isinstance(section, type) and section.__module__ == module.__name__  # type: ignore[attr-defined]
        for text in comments(section).values()
    )
    lines = source.splitlines()
    fields = {at: text for at, text in beside.items() if re.match(r"    \w+: ", lines[at - 1])}
    assert len(fields) > 10 and all(text in described for text in fields.values())


def test_a_comment_above_a_field_goes_before_the_one_behind_it() -> None:
    field_comments = comments(PPOConfig)
    assert field_comments["colocate"].startswith("Rank k of every group on one GPU") and "temperature" in field_comments
    assert "policy_lr" not in field_comments
