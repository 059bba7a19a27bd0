"""The files of a source tree that become code data."""

import hashlib
import os
import posixpath
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ilm_ray.code.facts import above
from ilm_ray.code.imports import DOCUMENTATION, LANGUAGES, MANIFESTS
from ilm_ray.config.schema import CodeConfig
from ilm_ray.errors import UserError

_ALWAYS_LEFT_OUT = {"__pycache__", "node_modules", "site-packages"}
_LEFT_OUT_OF_PYTHON = {"test", "tests", "idle_test", "lib2to3", "ensurepip", "lib-dynload"}
# Known endings only: `weights@x.shape` is a matrix product, not an address.
_EMAIL = re.compile(
    r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+(?:com|org|net|edu|gov|mil|info|io|dev|ai|eu|uk|de|fr|nl|it|es|se|no|dk|fi|pl|ch|at|be|cz|ru|cn|jp|kr|tw|in|br|au|ca|us|nz|za)\b"
)


class Chosen(NamedTuple):
    """Relative paths, sorted, and how many files were left out because their names are not UTF-8."""

    files: list[str]
    unnameable: int


def source_root(config: CodeConfig) -> Path:
    """The tree to read. Raises UserError where it is no folder."""
    root = Path(config.source) if config.source else Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise UserError(f"code.source: {root} is no folder; name one that holds source code, or leave the setting out")
    return root.absolute()


def choose_files(config: CodeConfig) -> Chosen:
    """At most `max_files` files of at most `max_file_bytes`.

    Where there are more, top-level folders and modules are taken in the order of the hash of their names: a fair sample
    in which packages are whole, but for the last one, which is taken as far as there is room.
    Raises UserError where the tree holds no code or cannot be read.
    """
    root, (found, unnameable) = source_root(config), _walk(config)
    found.sort(key=lambda path: (hashlib.sha256(path.split("/", 1)[0].encode()).digest(), path))
    chosen = sorted(found[: config.max_files])
    if not any(Path(path).suffix in LANGUAGES for path in chosen):
        raise UserError(
            f"code.source: {root} holds no {', '.join(LANGUAGES)} file of at most {config.max_file_bytes} bytes; "
            "name a folder with source code or raise code.max_file_bytes"
        )
    return Chosen(chosen, unnameable)


def _walk(config: CodeConfig) -> Chosen:
    """All files of the tree that may become data, in no order."""
    root = source_root(config)
    left_out = _ALWAYS_LEFT_OUT if config.source else _ALWAYS_LEFT_OUT | _LEFT_OUT_OF_PYTHON
    wanted = LANGUAGES.keys() | DOCUMENTATION.keys()
    found, unnameable = list[str](), 0
    try:
        for folder, names, files in os.walk(root, onerror=_raise):
            names[:] = [n for n in names if n not in left_out and not n.startswith(".")]
            for name in files:
                path = Path(folder, name)
                # A link may lead out of the tree.
                if path.suffix in wanted and not path.is_symlink() and 0 < path.stat().st_size <= config.max_file_bytes:
                    relative = path.relative_to(root).as_posix()
                    if _is_utf8(relative):
                        found.append(relative)
                    else:
                        unnameable += 1  # ids, documents and JSON could not hold the name
    except OSError as error:
        raise _unreadable(error) from None
    return Chosen(found, unnameable)


def find_manifests(root: Path, files: Iterable[str]) -> list[str]:
    """The manifests in the folders of `files` and on the way up to the root; sorted."""
    folders = {folder for path in files for folder in above(posixpath.dirname(path))}
    candidates = (root / folder / name for folder in folders for name in MANIFESTS)
    return sorted(p.relative_to(root).as_posix() for p in candidates if p.is_file() and not p.is_symlink())


def read_source(path: Path) -> str | None:
    """The text of a file with e-mail addresses masked; None where it is not UTF-8 or blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    return _EMAIL.sub("<email>", text) if text.strip() else None


def tree_fingerprint(config: CodeConfig) -> str:
    """Identity of the chosen files: their names and contents, and the root's name, which is part of ids and URLs.

    Raises UserError where a file cannot be read.
    """
    root = source_root(config)
    seen = hashlib.sha256(f"{root.name}\0".encode("utf-8", "surrogateescape"))
    try:
        files = choose_files(config).files
        for path in (*files, *find_manifests(root, files)):
            seen.update(f"{path}\0".encode() + hashlib.sha256((root / path).read_bytes()).digest())
    except OSError as error:
        raise _unreadable(error) from None
    return seen.hexdigest()[:16]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 come as lone surrogates
        return False
    return True


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave the folder out without a word


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"code.source: cannot read {error.filename}: {error.strerror}; correct its permissions or move it away"
    )
