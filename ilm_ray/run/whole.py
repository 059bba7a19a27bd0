"""Checks the files of a finished stage: hashed at first reading, then known by size, times and inode.

A file that was hashed counts as known while its size, times and inode stay: `.verified.json` in the stage's folder.
"""

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import sha256_of, write_text_atomic
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest

KNOWN = ".verified.json"
THREADS = 8  # hashlib leaves the interpreter to others meanwhile


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Raise UserError where a file of the stage in `folder` differs from its manifest."""
    if wrong := damage(folder, manifest.files, read_known(folder)):
        raise UserError(
            f"{folder / next(iter(wrong))} {next(iter(wrong.values()))}, by the manifest of stage '{manifest.stage}'; "
            f"bring back the file as it was, or delete it and run that stage again"
        )


def require_whole_stage(folder: Path) -> None:
    """As `require_whole`, of the stage in `folder`, where there is one that has finished."""
    if (manifest := manifests.load(folder)) is not None:
        require_whole(folder, manifest)


def damage(
    folder: Path, files: Mapping[str, Mapping[str, Any]], known: dict[str, list[int]] | None = None
) -> dict[str, str]:
    """File -> its damage. known: stamps of files that were hashed before, and are not again; files that prove whole
    join them, for `read_known`. None: all are hashed, and nothing is written.
    """
    stamps = {name: _stamp(folder / name) for name in files}
    unknown = [name for name in files if known is None or stamps[name] is None or known.get(name) != stamps[name]]

    def look(name: str) -> str | None:
        path, expected = folder / name, files[name]
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                return f"has {size} bytes instead of {expected['bytes']}"
            return None if sha256_of(path) == expected.get("sha256") else "has another SHA-256 than when it was written"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = {name: phrase for name, phrase in zip(unknown, pool.map(look, unknown), strict=True) if phrase}
    if unknown and known is not None:
        whole = {name: stamp for name, stamp in stamps.items() if stamp is not None and name not in wrong}
        with contextlib.suppress(OSError):  # a folder that cannot be written is hashed again
            write_text_atomic(folder / KNOWN, json.dumps(whole))
    return wrong


def read_known(folder: Path) -> dict[str, list[int]]:
    """Name -> stamp of the files that were hashed and whole."""
    try:
        known = json.loads((folder / KNOWN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
