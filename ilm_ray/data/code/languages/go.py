"""Imports of Go: a package is a folder, its path that of `go.mod` and below."""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, names, words
from ilm_ray.data.code.languages.lexical import GO, code_of

_IMPORT = re.compile(r"^import\s*+(?:\(([^)]{0,20000}+)\)|([\w.]*[ \t]*[\"`][^\"`\n]+[\"`]))", re.MULTILINE)
_SPEC = re.compile(r"(?:(?<![\w.])([\w.]++)[ \t]++)?[\"`]([^\"`\n]+)[\"`]")
# Methods are left out: what another package names is the type, a function, a variable or a constant.
_DEFINITION = re.compile(r"^(?:func|type|var|const)[ \t]+([A-Z]\w*)|^\t([A-Z]\w*)\b(?![.(:])", re.MULTILINE)
_MODULE = re.compile(r"^module[ \t]+\"?([^\s\"]+)", re.MULTILINE)


def find(path: str, text: str) -> Facts:
    """An import whose name is `_` runs the whole package and needs all of its files."""
    code = code_of(text, GO)
    specs = [spec for statement in code.find(_IMPORT) for spec in _SPEC.finditer(statement[1] or statement[2])]
    imports = [Import(spec[2], "" if spec[1] == "_" else "*") for spec in specs]
    return Facts(imports, [], [], names(_DEFINITION, code.bare), words(code.bare))


def find_module(path: str, text: str) -> Facts:
    """The module path of a `go.mod`."""
    return Facts([], [], _MODULE.findall(text)[:1], [], "")


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """The files of the package that define the names in use.

    Without a `go.mod` the path below the host, owner and name of the repository is taken for a folder of the tree.
    """
    parts = item.module.split("/")
    folder = next(
        (
            posixpath.join(posixpath.dirname(module), *parts[end:])
            for end in range(len(parts), 0, -1)
            for module in index.package("/".join(parts[:end]))
            if posixpath.basename(module) == "go.mod"
        ),
        None,
    )
    if folder is None and "." in parts[0] and not index.named("go.mod"):
        folder = "/".join(parts[3:])
    if folder is None:
        return
    group = [f for f in index.inside(folder) if f.endswith(".go") and not f.endswith("_test.go")]
    yield from index.used(user, group) if item.name == "*" else map(Target, group)
