"""Files appear whole or not at all: written under a temporary name, then renamed."""

import hashlib
import uuid
from pathlib import Path

import numpy as np


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other attempt has, be it on another machine that shares the folder."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step."""
    temporary = temporary_path(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy in one step, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with temporary.open("wb") as out:
        np.save(out, array)
    temporary.replace(path)
