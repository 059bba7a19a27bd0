"""preset + file + `key.sub=value` overrides -> a checked `Config`."""

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config.ranges import OUT_OF_RANGE, range_at
from ilm_ray.config.schema import Config
from ilm_ray.config.training import TrainingConfig

# What PyYAML raises on odd text: its own errors, and those of the constructors for numbers, dates and truth values.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
PRESETS = ("nano", "mini", "1_8b", "7b", "20b")  # from small to large


def load_config(
    preset: str = "nano", file: Path | None = None, overrides: Sequence[str] = (), base: Path | None = None
) -> Config:
    """Settings in rising precedence: preset, `base` (the settings that a run folder remembers), YAML file,
    `key.sub=value` words.

    Sections are merged. A table, such as `reward.system_prompts`, is one value: a setting that names it replaces it; a
    key within it (`reward.system_prompts.poetry=...`) sets that key alone. Raises UserError naming the key, where it
    came from and the nearest right key.
    """
    if preset not in PRESETS:
        raise UserError(f"preset '{preset}' does not exist; choose one of {', '.join(PRESETS)}")
    values: dict[str, Any] = yaml.safe_load(
        resources.files("ilm_ray.config").joinpath("presets", f"{preset}.yaml").read_text()
    )
    values["preset"] = preset
    for path in (base, file):
        if path is not None:
            values = _merged(values, _read_yaml(path), str(path))
    return _validated(_overridden(values, overrides))


def with_settings(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with `key.sub=value` words on top. Raises UserError as `load_config` does."""
    return _validated(_overridden(config.model_dump(), overrides))


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, sep, raw = override.partition("=")
        if not sep or not key or not raw.strip():
            raise UserError(f"'{override}' is not a setting; write key.sub=value (null for none)")
        key = "start" if key == "from" else key  # no Python name
        try:
            value = yaml.safe_load(raw)
            if isinstance(value, str) and raw.strip()[0] not in "'\"|>&!":
                value = raw.strip()  # YAML would take what follows " #" in a name for a comment
        except YAML_ERRORS as error:
            raise UserError(f"the value of '{key}' cannot be read: {_first_line(error)}") from None
        values = _merged(values, _nested(values, key.split("."), value), "the command line")
    return values


def _validated(values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except UnicodeError as error:  # half a character: a name that is not UTF-8, or an escape in YAML
        raise UserError(f"a setting is no text ({error}); write it in UTF-8") from None
    except ValidationError as error:
        first = error.errors()[0]
        # Where a setting may be a section or a word, pydantic puts in which of them it tried: `function-after[...]`.
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        message = first["msg"]
        if first["type"] in OUT_OF_RANGE and (allowed := range_at(Config, first["loc"])) is not None:
            message = f"{first['input']} is out of range, it must be {allowed}"
        raise UserError(f"setting '{where}': {message}" if where else message) from None


def save_config(config: Config, path: Path) -> None:
    """The resolved configuration as YAML, in one step, so that `--config` of a later run can take it as it is."""
    text = yaml.safe_dump(config.model_dump(mode="json", exclude={"preset"}), sort_keys=False, allow_unicode=True)
    write_text_atomic(path, f"# resolved from preset {config.preset}\n{text}")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror or error}; give the path of a YAML file") from None
    except YAML_ERRORS as error:
        raise UserError(f"--config {file} is not valid YAML: {_first_line(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"--config {file} must hold settings as 'key: value' lines")
    return loaded


def _merged(base: dict[str, Any], new: dict[str, Any], origin: str) -> dict[str, Any]:
    _refuse_unknown(new, Config, "", origin)
    return _sections_merged(base, new, Config)


def _sections_merged(base: dict[str, Any], new: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    out = dict(base)
    for key, value in new.items():
        section = section_of(model.model_fields[key].annotation)
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _sections_merged(out[key], value, section) if section is not None and both else value
    return out


def _nested(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """`value` at `path` as nested sections. A path into a table gives the present table with that one key changed."""
    model: type[BaseModel] | None = Config
    for at, name in enumerate(path[:-1]):
        field = model.model_fields.get(name) if model is not None else None
        if field is not None and _is_table(field.annotation):
            table = values.get(name, field.get_default(call_default_factory=True))
            value, path = with_entry(table, path[at + 1 :], value), path[: at + 1]
            break
        model = section_of(field.annotation) if field is not None else None
        inner = values.get(name)
        values = inner if isinstance(inner, dict) else {}
    for name in reversed(path):
        value = {name: value}
    sections: dict[str, Any] = value
    return sections


def with_entry(table: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of a nested table with the value at `path` exchanged; a value on the way that is no table becomes one."""
    known = table if isinstance(table, dict) else {}
    return known | {path[0]: value if len(path) == 1 else with_entry(known.get(path[0]), path[1:], value)}


def _is_table(annotation: Any) -> bool:
    return dict in (annotation, get_origin(annotation)) or any(_is_table(a) for a in get_args(annotation))


def _refuse_unknown(values: Any, model: type[BaseModel], prefix: str, origin: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"setting '{prefix.rstrip('.')}' from {origin} is a section; set one of its keys")
    for key, value in values.items():
        if key == "preset" and model is Config:
            raise UserError(f"'preset' from {origin} is no setting; choose it with --preset")
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            if prefix == "pretrain." and key in TrainingConfig.model_fields:
                raise UserError(f"setting 'pretrain.{key}' is now 'training.{key}'; change {origin}")
            best = _nearest(str(key), model, prefix)
            hint = f"; did you mean '{best}'?" if best else f"; known here: {', '.join(_keys_for(model))}"
            raise UserError(f"unknown setting '{prefix}{key}' from {origin}{hint}")
        inner = section_of(field.annotation)
        words = _words_of(field.annotation)
        if inner is not None and not any(value is word or (isinstance(value, str) and value == word) for word in words):
            _refuse_unknown(value, inner, f"{prefix}{key}.", origin)


def _nearest(key: str, model: type[BaseModel], prefix: str) -> str | None:
    """The likeliest right key: the same name in another section, a near name here, a near name anywhere."""
    everywhere = _all_keys(Config, "")
    same_name = [k for k in everywhere if k.rsplit(".", 1)[-1] == key]
    near = [f"{prefix}{k}" for k in difflib.get_close_matches(key, _keys_for(model), n=1)]
    far = difflib.get_close_matches(f"{prefix}{key}", everywhere, n=1, cutoff=0.5)
    return next(iter([*same_name, *near, *far]), None)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type is, or may be; None for a plain setting."""
    if get_origin(annotation) in (Union, UnionType):
        return next((s for a in get_args(annotation) if (s := section_of(a)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _words_of(annotation: Any) -> tuple[Any, ...]:
    """Words that may stand for a section: `layout: auto`, `judge: null`."""
    if annotation is type(None):
        return (None,)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for a in get_args(annotation) for word in _words_of(a))


def _keys_for(model: type[BaseModel]) -> list[str]:
    return [name for name in model.model_fields if name != "preset"]


def _all_keys(model: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        keys += _all_keys(inner, f"{prefix}{name}.") if inner is not None else [f"{prefix}{name}"]
    return keys


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
