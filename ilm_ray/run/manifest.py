"""Manifests: outputs, inputs and settings of a finished stage. The manifest is committed last."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import sha256_of

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage. `files` maps a path relative to the stage's folder to bytes and sha256."""

    stage: str
    settings: dict[str, Any]
    inputs: dict[str, str]  # name -> fingerprint of an upstream stage or file
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    @property
    def fingerprint(self) -> str:
        """Identity of the content that a downstream stage depends on. Timings are no part of it."""
        return digest([self.stage, self.settings, self.inputs, self.files])


def digest(value: Any) -> str:
    """Short hash of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def describe_files(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The `files` entry of a manifest for `paths` inside `folder`."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(paths)
    }


def commit(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically, as the last act of a stage."""
    write_text_atomic(folder / NAME, json.dumps(asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False))


def load(folder: Path) -> Manifest | None:
    """The stage's manifest, or None where the stage has not finished. Raises UserError where it cannot be read."""
    try:
        manifest = Manifest(**json.loads((folder / NAME).read_text(encoding="utf-8")))
        _check(manifest)
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder / NAME} is no manifest of a stage ({type(error).__name__}); give another --run-dir or remove it"
        ) from None


def _check(manifest: Manifest) -> None:
    """Raises ValueError or TypeError where it is of another form than `commit` writes."""
    for value, kind in (
        (manifest.stage, str),
        (manifest.settings, dict),
        (manifest.inputs, dict),
        (manifest.metrics, dict),
    ):
        if not isinstance(value, kind):
            raise TypeError("a field of another kind")
    if not all(isinstance(fingerprint, str) for fingerprint in manifest.inputs.values()):
        raise TypeError("an input without its fingerprint")
    if not all(isinstance(figure, int | float) for figure in (manifest.seconds, manifest.peak_memory_mb)):
        raise TypeError("a figure that is no number")
    for name, entry in manifest.files.items() if isinstance(manifest.files, dict) else [("", None)]:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
            raise ValueError("a file outside the folder")
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int):
            raise TypeError("a file without its size")


def why_stale(manifest: Manifest | None, folder: Path, settings: dict[str, Any], inputs: dict[str, str]) -> str | None:
    """The reason why a stage must run, in words; None if its manifest still holds."""
    if manifest is None:
        return "not finished yet"
    changed = _difference(manifest.settings, settings, "")
    if changed is not None:
        return f"setting {changed}"
    for name in inputs.keys() | manifest.inputs.keys():
        if inputs.get(name) != manifest.inputs.get(name):
            return f"input '{name}' changed"
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return f"output {name} is missing or has another size"
    return None


def _difference(old: Any, new: Any, path: str) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            difference = _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if difference is not None:
                return difference
        return None
    return None if old == new else f"{path} changed from {_short(old)} to {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
