"""Which files of a repository a file depends on, by regular expressions (report section 3.2).

A new language is one row in `_TABLE`: endings, how facts are found in a file, how an import is led to files.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ilm_ray.data.code.languages import c, go, javascript, packages, python, ruby, rust, swift
from ilm_ray.data.code.languages.facts import Facts, Find, Import, ModuleIndex, Resolve, Target


class Language(NamedTuple):
    """Files of these endings, their facts, and the targets of their imports."""

    suffixes: tuple[str, ...]
    find: Find
    targets: Resolve


_TABLE = (
    Language((".py", ".pyi"), python.find, python.targets),
    Language((".ipynb",), python.find_notebook, python.targets),
    Language((".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh"), c.find, c.targets),
    Language((".java",), packages.find_java, packages.targets),
    Language((".kt", ".kts"), packages.find_kotlin, packages.targets),
    Language((".scala", ".sc"), packages.find_scala, packages.targets),
    Language((".cs",), packages.find_csharp, packages.targets),
    Language((".php",), packages.find_php, packages.targets),
    Language((".go",), go.find, go.targets),
    Language((".js", ".jsx", ".mjs", ".cjs"), javascript.find, javascript.targets),
    Language((".ts", ".tsx", ".mts", ".cts"), javascript.find, javascript.targets),
    Language((".rs",), rust.find, rust.targets),
    Language((".rb",), ruby.find, ruby.targets),
    Language((".swift",), swift.find, swift.targets),
)
LANGUAGES = {suffix: language for language in _TABLE for suffix in language.suffixes}

# Files that are no code but say by which names others import the code around them.
MANIFESTS: Mapping[str, Find] = {
    "go.mod": go.find_module,
    "Cargo.toml": rust.find_crate,
    "package.json": javascript.find_package,
    "tsconfig.json": javascript.find_config,
    "jsconfig.json": javascript.find_config,
}


def has_facts(path: str) -> bool:
    """Whether a file by its name says anything about imports, its own or others'."""
    return _find(path) is not None


def find_facts(path: str, text: str) -> Facts:
    """Imports, declarations and identifiers of a file; none for documentation. Of a notebook its markdown form."""
    find = _find(path)
    return find(path, text) if find else Facts([], [], [], [], "")


def dependencies(path: str, index: ModuleIndex) -> set[str]:
    """The files of the repository that `path` depends on, itself left out.

    Batched imports count as far as they are used: a name that a file hands on to others is no dependency of its own,
    and a file that imports through it depends on the file that defines the name as well.
    """
    files = set[str]()
    for item in index.facts[path].imports:
        for target in _targets(path, path, item, index):
            if target.file != path:
                files.add(target.file)
                files.update(_behind(path, target, index, {target}))
    return files - {path}


def _find(path: str) -> Find | None:
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    return language.find if language else MANIFESTS.get(posixpath.basename(path))


def _behind(user: str, target: Target, index: ModuleIndex, seen: set[Target]) -> Iterator[str]:
    """The files from which `target.file` gathers the names that `user` wants of it."""
    if not target.name:
        return
    wanted = index.uses(user) if target.name == "*" else {target.name}
    for visible, item in index.facts[target.file].handed_on:
        if visible != "*" and visible not in wanted:
            continue
        for deeper in _targets(user, target.file, item, index):
            if visible == "*":  # the name goes through unchanged; a star of one file says nothing about its use
                deeper = Target(deeper.file, target.name)
            if deeper in seen:
                continue
            seen.add(deeper)
            if visible != "*" or not wanted.isdisjoint(index.defines(deeper.file)):
                yield deeper.file
            yield from _behind(user, deeper, index, seen)


def _targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    yield from language.targets(user, path, item, index) if language else ()
