"""The settings that a run folder remembers: `config.yaml`, the settings of its last job.

A job that names a preset begins from that preset, so the same command always means the same. One that names none takes
up the settings that the folder remembers; its own file and words go on top and are remembered in turn.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.config.load import PRESETS, load_config
from ilm_ray.config.road import STAGES, stages_on
from ilm_ray.config.schema import Config

NAME = "config.yaml"
DEFAULT_PRESET = "nano"
_PRESET = re.compile(rf"# resolved from preset ({'|'.join(PRESETS)})\n")
_SHOWN = 3  # settings that a line names


class Chosen(NamedTuple):
    """The settings of a job and its run folder. `note`: a line for people, where the folder remembered something."""

    config: Config
    run_dir: Path
    note: str | None


def choose_settings(preset: str | None, file: Path | None, words: Sequence[str], run_dir: Path | None) -> Chosen:
    """Settings of a command line (see `load_config`), over those of the run folder where it names no preset.

    run_dir: default runs/<preset>. Raises UserError for wrong settings, and for a remembered file that cannot be taken
    up. Reads only: whoever runs the job remembers.
    """
    folder = (run_dir or Path("runs") / (preset or DEFAULT_PRESET)).absolute()
    path = folder / NAME
    if not path.exists():
        return Chosen(load_config(preset or DEFAULT_PRESET, file, words), folder, None)
    if preset is None:
        known = remembered(path)
        config = load_config(known.preset, file, words, base=path)
        changed = _told(known, config)
        note = f"settings are those of {path}, from preset {known.preset}" + (f", but {changed}" if changed else "")
        return Chosen(config, folder, f"{note}; --preset begins from a preset instead")
    config = load_config(preset, file, words)
    try:
        known = remembered(path)
    except UserError:
        return Chosen(config, folder, f"{path} cannot be taken up and is written anew")
    if known.preset != preset:
        return Chosen(config, folder, f"preset {preset} takes the place of preset {known.preset}, which {path} had")
    changed = _told(known, config)
    return Chosen(config, folder, f"settings are not all those of {path}: {changed}" if changed else None)


def stages_of(run_dir: Path) -> tuple[str, ...]:
    """The stages of a run by its own settings; all of the road where it has none that can be read."""
    try:
        return stages_on(remembered(run_dir / NAME))
    except UserError:
        return STAGES


def remembered(path: Path) -> Config:
    """The settings that a run folder remembers in `path`. Raises UserError where they cannot be taken up."""
    advice = f"correct or remove {path}, which holds this run folder's settings, or name a --preset"
    try:
        with path.open(encoding="utf-8") as stream:
            preset = _PRESET.fullmatch(stream.readline())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from None
    if preset is None:
        raise UserError(f"the first line of {path} names no preset; {advice}")
    try:
        return load_config(preset[1], base=path)
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None


def _told(old: Config, new: Config) -> str:
    """The settings in which two configurations differ, the first few by name; "" where they are alike."""
    changed = list(_differences(old.model_dump(mode="json"), new.model_dump(mode="json"), ""))
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path} {_short(new)} instead of {_short(old)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
