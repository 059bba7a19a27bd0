"""Settings as `--help` lists them: name, type, the comment beside the field, the value of a preset."""

import argparse
import inspect
import re
from collections.abc import Sequence

from pydantic import BaseModel, create_model
from pydantic_settings import BaseSettings, CliSettingsSource

from ilm_ray.config.load import section_of
from ilm_ray.config.schema import Config

WIDTH, LONGEST_VALUE = 116, 80
_FIELD = re.compile(r"    (\w+): ")
_COMMENT = re.compile(r"(?:^    |  )# (.*)$")
_OPTION = re.compile(r"^  --([\w.]+) (\{.*?\}|\S+)", re.MULTILINE)
_GROUP = re.compile(r"^([\w.]+) options:$", re.MULTILINE)


def settings_help(config: Config, names: Sequence[str]) -> str:
    """Settings and sections `names` with the values of `config`, a group a section.

    pydantic-settings says of each what it says of options (`--seed int`); a setting is written `seed=int`.
    """
    _describe(Config)
    fields = {name: (Config.model_fields[name].annotation, getattr(config, name)) for name in names}
    described = create_model("Settings", __base__=BaseSettings, **fields)  # type: ignore[call-overload]
    for name in names:
        described.model_fields[name].description = Config.model_fields[name].description
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False, formatter_class=_Formatter)
    CliSettingsSource(described, root_parser=parser, cli_avoid_json=True, cli_parse_none_str="null")
    text = _OPTION.sub(r"  \1=\2", parser.format_help()).replace("(default: None)", "(default: null)")
    return _GROUP.sub(r"\1:", text)


def comments(section: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment above it and behind it."""
    above, name, pieces = list[str](), "", dict[str, list[str]]()
    for line in inspect.getsource(section).splitlines()[1:]:
        if line.startswith(("    def ", "    @")):
            break
        if field := _FIELD.match(line):
            name = field[1]
            pieces[name], above = above, []
        if comment := _COMMENT.search(line):
            (above if line.startswith("    # ") else pieces.get(name, [])).append(comment[1])
    return {name: " ".join(words) for name, words in pieces.items() if words}


def _describe(section: type[BaseModel]) -> None:
    """Describes the fields of a section, and of those within it, by their comments and their sections' docstrings."""
    field_comments = comments(section)
    for name, field in section.model_fields.items():
        field.description = field_comments.get(name)
        if (inner := section_of(field.annotation)) is not None:
            field.description = field.description or inspect.getdoc(inner)
            _describe(inner)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=44, width=WIDTH)

    def _expand_help(self, action: argparse.Action) -> str:
        words, mark, value = super()._expand_help(action).rpartition("(default: ")
        return words + mark + value if len(value) <= LONGEST_VALUE else f"{words}(default: that of the preset)"
