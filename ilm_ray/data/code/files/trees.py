"""Sources of the code stage: folders, archives and git repositories, as trees of files."""

import hashlib
import os
import re
import sysconfig
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files import archives, git
from ilm_ray.data.code.files.detect import PROSE, language_of
from ilm_ray.data.code.files.entries import Entry, Listing, ReadLimits
from ilm_ray.data.code.files.filters import is_licence, path_verdict
from ilm_ray.data.code.languages.imports import MANIFESTS

_PRUNED = {"__pycache__", "site-packages"}  # compiled files; other people's packages beside the standard library
_PRUNED_OF_PYTHON = {"test", "tests", "idle_test", "lib2to3", "ensurepip", "lib-dynload"}
STDLIB = "python://stdlib"
_README = re.compile(r"readme([.-][\w.-]+)?$", re.I)
_ROOT = re.compile(
    r"(setup\.(py|cfg)|pyproject\.toml|makefile|cmakelists\.txt|meson\.build|configure\.ac"
    r"|pom\.xml|build\.gradle(\.kts)?|build\.sbt|gemfile|composer\.json|mix\.exs|package\.swift)$",
    re.I,
)
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$")


@dataclass(frozen=True)
class Tree:
    """One source of files."""

    name: str  # the beginning of the URLs of all its files
    kind: Literal["folder", "tar", "zip", "git"]
    location: str
    revision: str = ""  # git: the commit
    pruned: tuple[str, ...] = ()  # names of folders that are not looked into
    whole: bool = True  # one repository; else as many as imports connect


class TreePart(NamedTuple):
    """Files of a tree that one task reads."""

    tree: Tree
    entries: list[Entry]


class Sources(NamedTuple):
    """The trees that a run reads, sorted, and the sources that it cannot read: location -> why."""

    trees: list[Tree]
    broken: dict[str, str]


def find_trees(config: CodeConfig) -> Sources:
    """The trees that `code.source` names; STDLIB is the standard library of the running Python.

    A folder with code of its own is one project with all that lies in it. Any other folder that holds projects, git
    repositories or archives is a folder of repositories: each of its folders and archives is a tree. Raises UserError
    where a named path is missing, or where nothing can be read.
    """
    named = [config.source] if isinstance(config.source, str) else config.source or []
    trees, broken = list[Tree](), dict[str, str]()
    for path in named:
        for place, make in [(path, _python)] if path == STDLIB else _places(Path(located(path))):
            try:
                trees.append(make())
            except UserError as error:
                broken[place] = str(error)
    if broken and not trees:
        raise UserError(next(iter(broken.values())))
    seen = Counter[str]()
    unique = []
    for tree in sorted(set(trees), key=lambda tree: (tree.name, tree.location)):
        seen[tree.name] += 1  # equal names would give equal ids
        name = tree.name if seen[tree.name] == 1 else f"{tree.name}~{seen[tree.name]}"
        unique.append(replace(tree, name=name))
    return Sources(unique, broken)


def list_tree(tree: Tree, limits: ReadLimits) -> Listing:
    """Every file of the tree that is worth a look, sorted by path. Raises UserError where it cannot be read."""
    if tree.kind == "folder":
        listing = _list_folder(tree)
    elif tree.kind == "git":
        listing = git.list_files(tree.location, tree.revision)
    elif tree.kind == "zip":
        listing = archives.list_zip(tree.location, limits)
    else:
        listing = archives.list_tar(tree.location, limits)
    kept, left_out = list[Entry](), Counter(listing.left_out)
    for entry in listing.entries:
        folders = entry.path.split("/")[:-1]
        if any(folder.startswith(".") or folder in tree.pruned for folder in folders):
            left_out["hidden"] += 1
        elif not _is_utf8(entry.path):
            left_out["unnameable"] += 1  # ids, documents and JSON could not hold the name
        else:
            kept.append(entry)
    return Listing(sorted(kept), left_out)


def read_tree(tree: Tree, entries: Iterable[Entry], limits: ReadLimits) -> Iterator[tuple[Entry, bytes]]:
    """The bytes of `entries`, at most `limits.file_bytes` + 1 of each, in no stated order.

    Raises UserError where the tree cannot be read.
    """
    if tree.kind == "folder":
        return _read_folder(tree, entries, limits)
    if tree.kind == "git":
        return git.read_files(tree.location, entries, limits)
    if tree.kind == "zip":
        return archives.read_zip(tree.location, entries, limits)
    return archives.read_tar(tree.location, entries, limits)


def split_parts(tree: Tree, entries: list[Entry], files: int) -> list[TreePart]:
    """Parts of at most `files` entries; a tar archive, which has no random access, is one part."""
    size = max(len(entries), 1) if tree.kind == "tar" else files
    return [TreePart(tree, entries[at : at + size]) for at in range(0, len(entries), size)]


def fingerprint(tree: Tree, read: Iterable[Entry], unread: Iterable[Entry]) -> str:
    """Identity of the contents of `read`, of names and sizes of `unread`, and of the tree's name, which is in all ids.

    Raises UserError where a file cannot be read.
    """
    seen = hashlib.sha256(f"{tree.name}\0{tree.kind}\0{tree.revision}\0".encode("utf-8", "surrogateescape"))
    try:
        if tree.kind in ("tar", "zip"):
            with Path(tree.location).open("rb") as raw:
                seen.update(hashlib.file_digest(raw, "sha256").digest())
        elif tree.kind == "folder":
            for entry in read:
                content = Path(tree.location, entry.member).read_bytes()
                seen.update(f"{entry.path}\0".encode() + hashlib.sha256(content).digest())
            for entry in unread:
                seen.update(f"{entry.path}\0{entry.size}\0".encode())
    except OSError as error:
        raise _unreadable(error) from None
    return seen.hexdigest()[:16]


def _python() -> Tree:
    root = Path(sysconfig.get_path("stdlib")).absolute()
    pruned = tuple(sorted(_PRUNED | _PRUNED_OF_PYTHON | {"node_modules"}))
    return Tree(root.name, "folder", str(root), pruned=pruned, whole=False)


def _places(path: Path) -> list[tuple[str, Callable[[], Tree]]]:
    """The trees at a named path, each with the function that opens it."""
    if path.is_file():
        return [(str(path), lambda: _archive(path))]
    if not path.is_dir():
        raise UserError(f"code.source: {path} is no folder, archive or git repository; name one, or leave it out")
    if _is_git(path):
        return [(str(path), lambda: _repository(path))]
    try:
        children = sorted(
            child for child in path.iterdir() if not child.name.startswith(".") and not child.is_symlink()
        )
        folders = [child for child in children if child.is_dir() and child.name not in _PRUNED]
        files = [child for child in children if child.is_file()]
        inside = {child: [grandchild.name for grandchild in child.iterdir()] for child in folders}
    except OSError as error:
        raise _unreadable(error) from None
    archived = [child for child in files if _ARCHIVE.search(child.name)]
    names = [child.name for child in files]
    many = bool(archived) or any(_is_git(child) or _is_project(inside[child]) for child in folders)
    # Words alone beside folders are a project's, unless these are projects themselves.
    words = any(_README.match(name) for name in names)
    if _has_code(names) or ((words or _is_project(names)) and not many):
        return [(str(path), lambda: _folder(path))]
    if not many:
        return [(str(path), lambda: _folder(path, whole=False))]
    return [
        *((str(child), partial(_repository if _is_git(child) else _folder, child)) for child in folders),
        *((str(child), partial(_archive, child)) for child in archived),
    ]


def _has_code(names: Iterable[str]) -> bool:
    """Whether there is source code among files of these names."""
    return any(
        name in MANIFESTS or ((language_of(name) or "text") not in PROSE and path_verdict(name, 1, 1) is None)
        for name in names
    )


def _is_project(names: Iterable[str]) -> bool:
    """Whether files of these names make their folder the root of a project. A README does not: packages have them."""
    return any(name in MANIFESTS or _ROOT.match(name) or is_licence(name) for name in names)


def _folder(path: Path, whole: bool = True) -> Tree:
    return Tree(path.name, "folder", str(path), pruned=tuple(sorted(_PRUNED)), whole=whole)


def _is_git(path: Path) -> bool:
    return (path / ".git").exists() or all((path / name).exists() for name in ("HEAD", "objects", "refs"))


def _repository(path: Path) -> Tree:
    name = path.parent.name if path.name == ".git" else path.name.removesuffix(".git")
    return Tree(name, "git", str(path), git.head(str(path)), tuple(sorted(_PRUNED)))


def _archive(path: Path) -> Tree:
    name = _ARCHIVE.sub("", path.name)
    try:
        if zipfile.is_zipfile(path):
            return Tree(name, "zip", str(path), pruned=tuple(sorted(_PRUNED)))
        if tarfile.is_tarfile(path):
            return Tree(name, "tar", str(path), pruned=tuple(sorted(_PRUNED)))
    except archives.DAMAGE:
        pass  # a damaged archive is no archive
    raise UserError(
        f"code.source: {path} is no tar or zip archive, or it is damaged; give a folder, archive or git repository"
    )


def _list_folder(tree: Tree) -> Listing:
    root, entries, left_out = Path(tree.location), list[Entry](), Counter[str]()
    try:
        for folder, names, files in os.walk(root, onerror=_raise):
            names[:] = [n for n in names if n not in tree.pruned and not n.startswith(".")]
            for name in files:
                path = Path(folder, name)
                if path.is_symlink() or not path.is_file():  # a link may lead out of the tree
                    left_out["no_regular_file"] += 1
                    continue
                relative = path.relative_to(root).as_posix()
                entries.append(Entry(relative, path.stat().st_size, relative))
    except OSError as error:
        raise _unreadable(error) from None
    return Listing(entries, left_out)


def _read_folder(tree: Tree, entries: Iterable[Entry], limits: ReadLimits) -> Iterator[tuple[Entry, bytes]]:
    try:
        for entry in entries:
            with Path(tree.location, entry.member).open("rb") as raw:
                yield entry, raw.read(limits.file_bytes + 1)
    except OSError as error:
        raise _unreadable(error) from None


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
