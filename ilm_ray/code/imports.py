"""Which file imports which: regular expressions a language, resolved to files of the repository (section 3.2.1)."""

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Resolver = Callable[[str, str, frozenset[str]], list[str]]


@dataclass(frozen=True)
class Language:
    """`find(text)` gives what is imported, `resolve(importing file, that, all files)` the files that are meant."""

    fence: str
    find: Callable[[str], Iterable[str]]
    resolve: Resolver


def imported_files(path: str, text: str, files: frozenset[str]) -> set[str]:
    """Files of the repository that `path` imports, itself excluded. Paths are POSIX, relative to the repository."""
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    if language is None:
        return set()
    return {found for name in language.find(text) for found in language.resolve(path, name, files)} - {path}


def _resolve_python(path: str, statement: str, files: frozenset[str]) -> list[str]:
    """`a.b, c as d` of an import, or `..pkg|x, y` of a from-import."""
    if "|" not in statement:
        names = [part.split(" as ")[0].strip() for part in statement.split(",")]
        return [f for name in names for f in _python_module(_absolute(path, name), files)]
    base, _, imported = statement.partition("|")
    names = [n.split(" as ")[0].strip(" ()\n\t\\") for n in re.sub(r"#.*", "", imported).split(",")]
    package = _absolute(path, base)
    out: list[str] = []
    for name in filter(None, names):
        # `from package import module` means the module; only what is no module comes from the package's __init__.
        submodule = _python_module(f"{package}/{name}" if package else name, files)
        out += submodule or _python_module(package, files)
    return out


def _absolute(path: str, name: str) -> str:
    """Dotted name as seen from `path` -> slash-separated path without suffix."""
    dots = len(name) - len(name.lstrip("."))
    parts = [p for p in name.lstrip(".").split(".") if p]
    if not dots:
        return "/".join(parts)
    folder = posixpath.dirname(path).split("/") if posixpath.dirname(path) else []
    return "/".join(folder[: len(folder) - dots + 1] + parts)


def _python_module(name: str, files: frozenset[str]) -> list[str]:
    return [f for f in (f"{name}.py", f"{name}/__init__.py") if f in files][:1]


def _resolve_include(path: str, name: str, files: frozenset[str]) -> list[str]:
    """Relative to the including file first, then to the repository's usual include folders."""
    for folder in (posixpath.dirname(path), "", "include", "src"):
        candidate = posixpath.normpath(posixpath.join(folder, name))
        if candidate in files:
            return [candidate]
    return []


_PYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:import[ \t]+(?P<plain>[\w., \t]+)"
    r"|from[ \t]+(?P<base>\.*[\w.]*)[ \t]+import[ \t]+(?:\((?P<many>[^)]*)\)|(?P<one>[^\n;]+)))",
    re.MULTILINE,
)


def _find_python(text: str) -> list[str]:
    """`a.b, c as d` of an import, `base|names` of a from-import."""
    return [m["plain"] or f"{m['base']}|{m['many'] or m['one']}" for m in _PYTHON_IMPORT.finditer(text)]


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', re.MULTILINE)
LANGUAGES: dict[str, Language] = {
    ".py": Language("python", _find_python, _resolve_python),
    **{suffix: Language("c", _INCLUDE.findall, _resolve_include) for suffix in (".c", ".h")},
    **{suffix: Language("cpp", _INCLUDE.findall, _resolve_include) for suffix in (".cc", ".cpp", ".cxx", ".hpp")},
}
DOCUMENTATION = (".md", ".rst", ".txt")
