"""`origin.json` in a model's folder: the checkpoint that it descends from, as far as exports must give it back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Origin:
    """A family's checkpoint. dtype: torch's name of its weights' type; config, generation: its two JSON files."""

    dtype: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        write_text_atomic(folder / ORIGIN, json.dumps(asdict(self), indent=1, ensure_ascii=False))


def load_origin(folder: Path) -> Origin | None:
    """The origin of the model in `folder`; None for a model of our own. Raises UserError where it cannot be read."""
    path = folder / ORIGIN
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Origin(str(values["dtype"]), dict(values["config"]), dict(values["generation"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); copy the folder anew") from None


def carry_origin(base: Path | None, folder: Path) -> None:
    """Give the model in `folder` the origin of `base`, which it was trained from."""
    origin = load_origin(base) if base is not None else None
    if origin is not None:
        origin.save(folder)


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that make the model, for a manifest."""
    origin = folder / ORIGIN
    return [folder / "model.safetensors", folder / "shape.json", *([origin] if origin.exists() else [])]
