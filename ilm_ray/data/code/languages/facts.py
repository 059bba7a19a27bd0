"""Imports and definitions of one file, and the index of a whole repository over them."""

import bisect
import functools
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_WORD = re.compile(r"[^\W\d]\w*")


class Import(NamedTuple):
    """`name` of `module`, both as the language writes them.

    name is "" where the module itself is meant and "*" where everything in it is: of that only the names that the
    importer uses count.
    """

    module: str
    name: str = ""


class Facts(NamedTuple):
    """The part of a file that the dependency graph is made of.

    imports: imports that the file needs itself. handed_on: (visible name or "*", import) of names that it only gathers
    for others: re-exports of an `__init__.py` or `index.ts`, the headers of an umbrella header; no dependency of its
    own. packages: the names that others import it by (package, namespace, module path). defines: names of its top
    level. words: the identifiers of its code, joined by spaces.
    """

    imports: list[Import]
    handed_on: list[tuple[str, Import]]
    packages: list[str]
    defines: list[str]
    words: str

    @classmethod
    def of_json(cls, row: Any) -> "Facts":
        """The facts that `json.dumps` wrote as nested lists."""
        imports, handed_on, packages, defines, words = row
        pairs = [(visible, Import(*pair)) for visible, pair in handed_on]
        return cls([Import(*pair) for pair in imports], pairs, packages, defines, words)


class Target(NamedTuple):
    """A file that an import leads to, and the name wanted from it, as in `Import.name`."""

    file: str
    name: str = ""


class ModuleIndex:
    """The files of one repository. Paths are relative to its root, with forward slashes."""

    def __init__(self, facts: Mapping[str, Facts]) -> None:
        self.facts = facts
        self._sorted = sorted(facts)
        self._packages: dict[str, list[str]] = defaultdict(list)
        self._named: dict[str, list[str]] = defaultdict(list)
        self._folders: dict[str, set[str]] = defaultdict(set)
        for path in self._sorted:
            for package in facts[path].packages:
                self._packages[package].append(path)
            self._named[posixpath.basename(path)].append(path)
            for folder in above(posixpath.dirname(path)):
                self._folders[posixpath.basename(folder)].add(folder)
        self._uses = functools.cache(lambda path: frozenset(facts[path].words.split()))
        self._defines = functools.cache(lambda path: frozenset(facts[path].defines))

    def __contains__(self, path: str) -> bool:
        return path in self.facts

    def package(self, name: str) -> list[str]:
        """The files that declare this package, namespace or module path; sorted."""
        return self._packages.get(name, [])

    def named(self, name: str) -> list[str]:
        """The files of this base name; sorted."""
        return self._named.get(name, [])

    def folders(self, name: str) -> list[str]:
        """The folders of this base name that hold files at any depth; sorted."""
        return sorted(self._folders.get(name, ()))

    def below(self, folder: str) -> list[str]:
        """The files in `folder` at any depth; sorted."""
        prefix = f"{folder}/" if folder else ""
        start = bisect.bisect_left(self._sorted, prefix)
        return self._sorted[start : bisect.bisect_left(self._sorted, f"{prefix}\U0010ffff", start)]

    def inside(self, folder: str) -> list[str]:
        """The files directly in `folder`; sorted."""
        return [path for path in self.below(folder) if posixpath.dirname(path) == folder]

    def uses(self, path: str) -> frozenset[str]:
        """The identifiers of a file."""
        return self._uses(path)

    def defines(self, path: str) -> frozenset[str]:
        """The names of a file's top level."""
        return self._defines(path)

    def used(self, user: str, group: Iterable[str]) -> Iterator[Target]:
        """The files of an imported group that define a name which `user` uses."""
        words = self.uses(user)
        return (Target(path) for path in group if path != user and not words.isdisjoint(self.defines(path)))

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first path that exists, after `.` and `..` are resolved; none lies outside the repository."""
        return next((path for path in map(posixpath.normpath, candidates) if path in self.facts), None)


Find = Callable[[str, str], Facts]  # (path, text)
Resolve = Callable[
    [str, str, Import, ModuleIndex], Iterable[Target]
]  # (user, path that holds the import, import, index)


def above(folder: str) -> Iterator[str]:
    """`folder`, its parent, ... and the root of the tree, which is the empty path."""
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


def words(bare: str) -> str:
    """The identifiers of code without comments and strings, sorted, joined by spaces."""
    return " ".join(sorted(set(_WORD.findall(bare))))


def names(pattern: re.Pattern[str], bare: str) -> list[str]:
    """All matches of any group of the pattern, sorted."""
    return sorted({name for match in pattern.finditer(bare) for name in match.groups() if name})
