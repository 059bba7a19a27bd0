"""Imports of Rust: `mod`, `use`, and paths that begin with `crate::` or `super::` anywhere in the code."""

import posixpath
import re
import tomllib
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import RUST, code_of

_MODULE = re.compile(r"(?:#\[path\s*=\s*\"([^\"\n]+)\"\]\s*)?\b(?:pub(?:\([^)]{0,200}\))?\s+)?mod\s+(\w+)\s*;")
_INLINE = re.compile(r"\bmod\s+\w+\s*\{")
_USE = re.compile(r"(pub(?:\([^)]{0,200}\))?\s+)?\buse\s+(?:::)?([^;]{1,10000}+);")
_PATH = re.compile(r"(?<![\w:])(?:crate|super)(?:::\w+)+")
_DEFINITION = re.compile(
    r"\b(?:fn|struct|enum|trait|type|const|static|union)\s+(?:mut\s+)?(\w+)|\bmacro_rules!\s*(\w+)"
)
_ROOTS = ("lib.rs", "main.rs")


def find(path: str, text: str) -> Facts:
    """A module that is declared but not used here is handed on, as is a name of `pub use`."""
    code = code_of(text, RUST)
    imports, handed_on = list[Import](), list[tuple[str, Import]]()
    inline = _inline_modules(code.bare)
    for match in _USE.finditer(code.bare):
        depth = sum(start < match.start() < end for start, end in inline)
        for module, name in _leaves(match[2]):
            item = Import(_outward(module, depth))
            if match[1] and not depth:
                handed_on.append((name, item))
            else:
                imports.append(item)
    elsewhere = _USE.sub(lambda match: " " * len(match[0]), code.bare)
    for match in _PATH.finditer(elsewhere):
        depth = sum(start < match.start() < end for start, end in inline)
        imports.append(Import(_outward(match[0], depth)))
    named = set(re.findall(r"\b(\w+)\s*::", _MODULE.sub("", code.bare)))
    for declared in code.find(_MODULE):
        item = Import(f"./{declared[1]}" if declared[1] else f"self::{declared[2]}")
        if declared[2] in named:
            imports.append(item)
        else:
            handed_on.append((declared[2], item))
    return Facts(imports, handed_on, [], names(_DEFINITION, code.bare), words(code.bare))


def find_crate(path: str, text: str) -> Facts:
    """The name of a Cargo.toml's library, as code writes it."""
    try:
        manifest = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        manifest = {}
    package = manifest.get("package")
    name = package.get("name") if isinstance(package, dict) else None
    return Facts([], [], [name.replace("-", "_")] if isinstance(name, str) else [], [], "")


def _leaves(tree: str) -> Iterator[tuple[str, str]]:
    """(path, name it gets) of every leaf of `a::{b as c, d::{self, *}}`; white space may be anywhere."""
    prefixes, item = [""], ""
    for sign in [*re.split(r"([{},])", tree), ","]:
        if sign == "{":
            prefixes.append(prefixes[-1] + "".join(item.split()))
            item = ""
        elif sign in (",", "}"):
            path, _, alias = item.partition(" as ")
            whole = (prefixes[-1] + "".join(path.split())).removesuffix("::self")
            if item.strip():
                yield whole, alias.strip() or whole.rsplit("::", 1)[-1]
            item = ""
            if sign == "}" and len(prefixes) > 1:
                prefixes.pop()
        else:
            item += " ".join(sign.split("\n"))


def _outward(module: str, depth: int) -> str:
    """A path as the file's own level sees it, written inside `depth` inline modules."""
    parts = module.split("::")
    while depth and parts[0] == "super":
        parts, depth = parts[1:], depth - 1
        if parts[0] != "super":
            parts = ["self", *parts]
    return "::".join(parts)


def _inline_modules(bare: str) -> list[tuple[int, int]]:
    """Beginnings and ends of the blocks `mod name { ... }`."""
    begins = {match.end(): match.start() for match in _INLINE.finditer(bare)}
    blocks, opened = list[tuple[int, int]](), list[int | None]()
    for brace in re.finditer(r"[{}]", bare):
        if brace[0] == "{":
            opened.append(begins.get(brace.end()))
        elif opened and (start := opened.pop()) is not None:
            blocks.append((start, brace.end()))
    return blocks


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """The file of the deepest module on the path; the rest of the path is wanted from it."""
    if item.module.startswith("./"):
        if file := index.first([posixpath.join(posixpath.dirname(path), item.module)]):
            yield Target(file)
        return
    parts = [part for part in item.module.split("::") if part]
    folder, owner = _own_folder(path), path
    if not parts:
        return
    if parts[0] == "crate":
        folder = _crate_folder(path, index)
        owner, parts = _root(folder, path, index), parts[1:]
    elif parts[0] in ("self", "super"):
        while parts and parts[0] in ("self", "super"):
            if parts[0] == "super":
                folder = posixpath.dirname(folder)
                owner = index.first([f"{folder}.rs", f"{folder}/mod.rs", *(f"{folder}/{r}" for r in _ROOTS)]) or path
            parts = parts[1:]
    elif not _submodule(folder, parts[0], index):
        manifests = [f for f in index.package(parts[0]) if posixpath.basename(f) == "Cargo.toml"]
        if not manifests:
            return
        folder = posixpath.join(posixpath.dirname(manifests[0]), "src")
        owner, parts = _root(folder, path, index), parts[1:]
    while parts and (deeper := _submodule(folder, parts[0], index)):
        folder, owner, parts = posixpath.join(folder, parts[0]), deeper, parts[1:]
    if owner in index:
        yield Target(owner, parts[0] if parts else "")


def _submodule(folder: str, name: str, index: ModuleIndex) -> str | None:
    return index.first([posixpath.join(folder, f"{name}.rs"), posixpath.join(folder, name, "mod.rs")])


def _own_folder(path: str) -> str:
    """The folder of a file's submodules."""
    folder, name = posixpath.split(path)
    return folder if name in (*_ROOTS, "mod.rs") else posixpath.join(folder, name.removesuffix(".rs"))


def _crate_folder(path: str, index: ModuleIndex) -> str:
    folder = posixpath.dirname(path)
    return next((up for up in above(folder) if index.first(posixpath.join(up, root) for root in _ROOTS)), folder)


def _root(folder: str, path: str, index: ModuleIndex) -> str:
    if posixpath.dirname(path) == folder and posixpath.basename(path) in _ROOTS:
        return path
    return index.first(posixpath.join(folder, root) for root in _ROOTS) or path
