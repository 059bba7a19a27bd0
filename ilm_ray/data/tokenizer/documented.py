"""The files beside a vocabulary that somebody brings: the names of special tokens, added tokens, the chat template.

A folder comes from a stranger: every file has a largest size and is read as JSON or text, and no code in it is run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
CONFIG = "tokenizer_config.json"
SPECIALS_MAP = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
LARGEST = {  # bytes; the largest published tokenizer.json has 34 MB
    TOKENIZER_JSON: 128 << 20,
    SENTENCEPIECE: 64 << 20,
    CONFIG: 16 << 20,
    SPECIALS_MAP: 1 << 20,
    TEMPLATE: 1 << 20,
}
_LARGEST_ID = 1 << 22


class Added(NamedTuple):
    """A token beside the model's own vocabulary. strip_left, strip_right: it takes the white space beside it along."""

    id: int
    special: bool
    strip_left: bool = False
    strip_right: bool = False


class Documented(NamedTuple):
    """The words of tokenizer_config.json and its neighbours."""

    tokens: dict[str, str]  # bos_token, eos_token, ... -> the token
    added: dict[str, Added]  # of added_tokens_decoder
    begins: bool | None  # add_bos_token; None: the vocabulary's own file says it
    template: str | None


def read_documented(folder: Path) -> Documented:
    """Raises UserError where a file is too large or of another kind than its name."""
    config = read_object(folder / CONFIG)
    names = read_object(folder / SPECIALS_MAP) | config
    tokens = {
        key: token for key, value in names.items() if key.endswith("_token") and (token := _content(value)) is not None
    }
    begins = config.get("add_bos_token")
    return Documented(
        tokens,
        {**_added(config.get("added_tokens_decoder"), folder / CONFIG), **_more(names)},
        begins if isinstance(begins, bool) else None,
        _template(folder, config.get("chat_template")),
    )


def read_bounded(path: Path) -> bytes:
    """The bytes of a file of LARGEST. Raises UserError where it is larger, no plain file or cannot be read."""
    try:
        if not path.is_file():
            raise UserError(f"{path} is no file; copy the tokenizer anew")
        with path.open("rb") as file:
            data = file.read(LARGEST[path.name] + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); copy the tokenizer anew") from None
    if len(data) > LARGEST[path.name]:
        raise UserError(f"{path} has more than {LARGEST[path.name] >> 20} MiB; that is no tokenizer")
    return data


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    if not path.exists():
        return {}
    data = read_bounded(path)
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        if b"\\u" in data:  # half a character, which no file in UTF-8 can hold, can be named so
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:200]}); copy the tokenizer anew") from None
    return content


def _content(value: Any) -> str | None:
    """A token is written as a text, or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _more(names: Mapping[str, Any]) -> dict[str, Added]:
    """Further special tokens, which have their ids in the vocabulary: -1 here."""
    listed = names.get("additional_special_tokens") or names.get("extra_special_tokens") or []
    found = [_content(value) for value in (listed if isinstance(listed, list) else [])]
    return {name: Added(-1, True) for name in found if name is not None}


def _added(rows: Any, where: Path) -> dict[str, Added]:
    if not isinstance(rows or {}, dict):
        raise UserError(f"{where}: added_tokens_decoder is no object; copy the tokenizer anew")
    added = dict[str, Added]()
    for key, row in (rows or {}).items():
        name = _content(row) if isinstance(row, dict) else None
        if name is None or not key.isascii() or not key.isdecimal() or int(key[:9]) >= _LARGEST_ID:
            raise UserError(f"{where}: added_tokens_decoder has the row '{key}' without a token; copy the file anew")
        added[name] = Added(int(key), row.get("special") is True, row.get("lstrip") is True, row.get("rstrip") is True)
    return added


def _template(folder: Path, value: Any) -> str | None:
    """Source of the chat template. A file of its own comes first, then the template that is named `default`."""
    if (folder / TEMPLATE).exists():
        try:
            return read_bounded(folder / TEMPLATE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{folder / TEMPLATE} is no text in UTF-8 ({error}); copy it anew") from None
    if isinstance(value, list):
        named = {row.get("name"): row.get("template") for row in value if isinstance(row, dict)}
        value = named.get("default")
        if not isinstance(value, str):
            raise UserError(f"{folder / CONFIG}: chat_template names no template 'default'; name one of them so")
    if value is not None and not isinstance(value, str):
        raise UserError(f"{folder / CONFIG}: chat_template is neither a text nor a list of named ones; correct it")
    return value
