"""Imports of Python. Conditional ones and those under TYPE_CHECKING count; names built at run time do not."""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import PYTHON, code_of

_STATEMENT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from(?=[ \t.])[ \t]*(?P<module>[\w.]+)[ \t]+import\b[ \t]*"
    r"(?P<names>\([^)]{0,10000}+\)|[^\n;]+)"
    r"|import[ \t]+(?P<modules>[^\n;(]+))",
    re.MULTILINE,
)
_ITEM = re.compile(r"\s*([\w.]+|\*)(?:\s+as\s+(\w+))?")
_UNDOTTED = re.compile(r"(?<![\w.])[^\W\d]\w*")
_DEFINITION = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE)
_BLOCK = re.compile(r"^(`{3,})i?python3?\n([\s\S]*?)(?:^\1$|\Z)", re.MULTILINE)


def find(path: str, text: str) -> Facts:
    """An `__init__.py` gathers names for others: those that it does not use itself are handed on."""
    bare = code_of(text, PYTHON).bare.replace("\\\n", "  ")
    gathers = posixpath.basename(path) == "__init__.py"
    identifiers = set(_UNDOTTED.findall(_STATEMENT.sub("", bare))) if gathers else set()
    imports, handed_on = list[Import](), list[tuple[str, Import]]()
    for statement in _STATEMENT.finditer(bare):
        module = statement["module"]
        for item in (statement["names"] or statement["modules"]).strip("() \t\n").split(","):
            parsed = _ITEM.match(item)
            if parsed is None:
                continue
            name, alias = parsed.groups()
            bound = alias or name.split(".")[0]
            imported = Import(name) if module is None else Import(module, name)
            if gathers and bound not in identifiers:
                handed_on.append((bound, imported))
            else:
                imports.append(imported)
    return Facts(imports, handed_on, [], names(_DEFINITION, bare), words(bare))


def find_notebook(path: str, text: str) -> Facts:
    """The code of a notebook's Python cells; `text` is its markdown form."""
    return find(path, "".join(block[2] for block in _BLOCK.finditer(text)))


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """A submodule where there is one of that name, else the module or the package's `__init__.py`."""
    dotted = item.module.lstrip(".")
    folder = posixpath.dirname(path)
    if up := len(item.module) - len(dotted):
        for _ in range(up - 1):
            folder = posixpath.dirname(folder)
        roots = [folder]
    else:  # a package's own folder is on no path: only folders without __init__.py are searched, the nearest first
        outside = [up for up in above(folder) if posixpath.join(up, "__init__.py") not in index]
        roots = outside + [posixpath.join(up, "src") for up in outside]
    for root in roots:
        base = posixpath.join(root, *dotted.split(".")) if dotted else root
        if item.name not in ("", "*") and (submodule := _module(posixpath.join(base, item.name), index)):
            yield Target(submodule)
            return
        if module := _module(base, index):
            yield Target(module, item.name)
            return


def _module(base: str, index: ModuleIndex) -> str | None:
    return index.first((posixpath.join(base, "__init__.py"), f"{base}.py", f"{base}.pyi"))
