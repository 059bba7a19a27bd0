"""What a source file imports, found by regular expressions and resolved to files of the same tree (report section 3.2).

A new language is one row in LANGUAGES. Paths are relative to the tree's root, with forward slashes.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import NamedTuple

DOCUMENTATION = {".md": "markdown", ".rst": "rst", ".txt": "text"}


class Import(NamedTuple):
    """`from module import name`, `import module` (no name), or an included file (module is its path)."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Language:
    """find: (path, text) -> imports; targets: (path, import, all files) -> the files that it may mean."""

    name: str
    find: Callable[[str, str], list[Import]]
    targets: Callable[[str, Import, Set[str]], Iterable[str]]


def find_imports(path: str, text: str) -> list[Import]:
    """The imports of a file; none for documentation."""
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    return language.find(path, text) if language else []


def resolve(path: str, imports: Iterable[Import], files: Set[str]) -> set[str]:
    """The files of the tree that `path` depends on, itself left out."""
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    if language is None:
        return set()
    return {target for found in imports for target in language.targets(path, found, files)} - {path}


# --- Python -----------------------------------------------------------------------------------------------------------

_BLOCK_STRING = re.compile(r"(\"\"\"|''')[\s\S]*?\1")
_STATEMENT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>\.*[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|(?:[^\n\\#;]|\\\n)+)"
    r"|import[ \t]+(?P<modules>(?:[^\n\\#;]|\\\n)+))",
    re.MULTILINE,
)
_COMMENT = re.compile(r"#[^\n]*")
_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_ITEM = re.compile(r"([\w.]+|\*)(?:\s+as\s+(\w+))?")


def _find_python(path: str, text: str) -> list[Import]:
    text = _BLOCK_STRING.sub("", text)
    # An __init__.py gathers names for others; those that it does not use itself are no dependency.
    rest = _STRING.sub("", _COMMENT.sub("", _STATEMENT.sub("", text))) if _is_package(path) else None
    found = []
    for statement in _STATEMENT.finditer(text):
        listed = _COMMENT.sub("", statement["names"] or statement["modules"]).strip("() \t\n").replace("\\\n", " ")
        for item in listed.split(","):
            parsed = _ITEM.match(item.strip())
            if parsed is None:
                continue
            name, alias = parsed.groups()
            bound = alias or name.split(".")[0]
            if rest is not None and not re.search(rf"(?<![\w.]){re.escape(bound)}\b", rest):
                continue
            module = statement["module"]
            found.append(Import(name) if module is None else Import(module, "" if name == "*" else name))
    return found


def _python_targets(path: str, found: Import, files: Set[str]) -> Iterator[str]:
    dotted = found.module.lstrip(".")
    up = len(found.module) - len(dotted)
    folder = posixpath.dirname(path)
    if up:
        for _ in range(up - 1):
            folder = posixpath.dirname(folder)
        roots = [folder]
    else:  # a package's own folder is on no path: only folders without __init__.py are searched, the nearest first
        roots = [above for above in _above(folder) if posixpath.join(above, "__init__.py") not in files]
    for root in roots:
        base = posixpath.join(root, *dotted.split(".")) if dotted else root
        inside = _module(posixpath.join(base, found.name), files) if found.name else None
        target = inside or _module(base, files)
        if target is not None:
            yield target
            return


def _module(base: str, files: Set[str]) -> str | None:
    for candidate in (f"{base}.py", posixpath.join(base, "__init__.py")):
        if candidate in files:
            return candidate
    return None


def _is_package(path: str) -> bool:
    return posixpath.basename(path) == "__init__.py"


# --- C and C++ --------------------------------------------------------------------------------------------------------

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[\"<]([^\">\n]+)[\">]", re.MULTILINE)


def _find_c(path: str, text: str) -> list[Import]:
    return [Import(name) for name in _INCLUDE.findall(text)]


def _c_targets(path: str, found: Import, files: Set[str]) -> Iterator[str]:
    for folder in _above(posixpath.dirname(path)):
        for base in (folder, posixpath.join(folder, "include")):
            candidate = posixpath.normpath(posixpath.join(base, found.module))
            if candidate in files:
                yield candidate
                return


def _above(folder: str) -> Iterator[str]:
    """`folder`, its parent, ... and the root of the tree, which is the empty path."""
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


_PYTHON = Language("python", _find_python, _python_targets)
_C = Language("c", _find_c, _c_targets)
_CPP = Language("cpp", _find_c, _c_targets)
LANGUAGES = {
    ".py": _PYTHON,
    ".c": _C,
    ".h": _C,
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"), _CPP),
}
