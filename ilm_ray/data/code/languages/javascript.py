"""Imports of JavaScript and TypeScript: relative paths, `paths` of a tsconfig, packages of the same repository."""

import json
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import JAVASCRIPT, code_of

_FROM = re.compile(
    r"(?<![\w.$])(import|export)\b(?P<clause>[\w\s{},*$]{0,2000}?)\bfrom\s*[\"'](?P<module>[^\"'\n]+)[\"']"
)
_WHOLE = re.compile(r"(?<![\w.$])(?:import\s*|(?:import|require)\s*\(\s*)[\"'](?P<module>[^\"'\n]+)[\"']")
_DEFINITION = re.compile(
    r"\bexport\s+(?:default\s+)?(?:declare\s+)?(?:abstract\s+)?(?:async\s+)?"
    r"(?:function\*?|class|const|let|var|interface|type|enum|namespace)\s+([\w$]+)|\bexports\.(\w+)[ \t]*="
)
_EXPORTED = re.compile(r"\bexport\s*(?:type\s*)?\{([^}]{0,2000})\}(?!\s*from)")
_JSON_COMMENT = re.compile(r"(?m)(\"(?:[^\"\\\n]++|\\.)*+(?:\"|\\?$))|//[^\n]*|/\*[\s\S]*?(?:\*/|\Z)|,(?=\s*[}\]])")
_SUFFIXES = (".ts", ".tsx", ".mts", ".cts", ".d.ts", ".js", ".jsx", ".mjs", ".cjs")
_SCRIPT = re.compile(r"\.[mc]?jsx?$")


def find(path: str, text: str) -> Facts:
    """`export ... from` hands on; every other form is an import."""
    code = code_of(text, JAVASCRIPT)
    imports, handed_on = list[Import](), list[tuple[str, Import]]()
    for match in code.find(_FROM):
        for name, visible in _clause(match["clause"]):
            item = Import(match["module"], name)
            if match[1] == "export":
                handed_on.append((visible, item))
            else:
                imports.append(item)
    imports += [Import(match["module"], "*" if "(" in match[0] else "") for match in code.find(_WHOLE)]
    exported = (
        re.split(r"\bas\b", item)[-1].strip() for clause in _EXPORTED.findall(code.bare) for item in clause.split(",")
    )
    defines = {*names(_DEFINITION, code.bare), *filter(None, exported)}
    return Facts(imports, handed_on, [], sorted(defines), words(code.bare))


def _clause(clause: str) -> Iterator[tuple[str, str]]:
    """(name in the module, name it gets) of the names between `import` and `from`."""
    before, _, rest = re.sub(r"^\s*type\b(?!\s*(?:,|$))", "", clause).partition("{")
    for item in filter(None, map(str.strip, before.split(","))):
        if item.startswith("*"):
            yield "*", item.split()[-1]
        else:
            yield "default", item
    for item in filter(None, map(str.strip, rest.partition("}")[0].split(","))):
        pair = re.sub(r"^type\s+(?!as\b)", "", item).split(" as ")
        yield pair[0].strip(), pair[-1].strip()


def find_config(path: str, text: str) -> Facts:
    """The `paths` and `baseUrl` of a tsconfig.json or jsconfig.json, as (pattern, import of a path beside the file)."""
    options = _object(_object(_json(text)).get("compilerOptions"))
    base = options.get("baseUrl")
    paths = [
        (pattern, Import(posixpath.join(base if isinstance(base, str) else "", target)))
        for pattern, targets in _object(options.get("paths")).items()
        for target in (targets if isinstance(targets, list) else ())
        if isinstance(target, str)
    ]
    paths.sort(key=lambda pair: ("*" in pair[0], -len(pair[0])))  # stable: targets of a pattern keep their order
    if isinstance(base, str):
        paths.append(("*", Import(posixpath.join(base, "*"))))
    return Facts([], paths, [], [], "")


def find_package(path: str, text: str) -> Facts:
    """The name of a package.json, and its entries."""
    package = _object(_json(text))
    name = package.get("name")
    entries = (package.get(key) for key in ("source", "module", "main", "types"))
    handed_on = [("", Import(entry)) for entry in entries if isinstance(entry, str)]
    return Facts([], handed_on, [name] if isinstance(name, str) and name else [], [], "")


def _json(text: str) -> Any:
    """JSON with comments and trailing commas; None where it is broken, as such a file says nothing."""
    try:
        return json.loads(_JSON_COMMENT.sub(lambda match: match[1] or "", text))
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """The first file that the module may mean."""
    file = next(filter(None, (_file(base, index) for base in _bases(path, item.module, index))), None)
    if file is not None:
        yield Target(file, item.name)


def _bases(path: str, module: str, index: ModuleIndex) -> Iterator[str]:
    folder = posixpath.dirname(path)
    if module.startswith("."):
        yield posixpath.join(folder, module)
        return
    for up in above(folder):
        for config in ("tsconfig.json", "jsconfig.json"):
            facts = index.facts.get(posixpath.join(up, config))
            for pattern, target in facts.handed_on if facts else ():
                head, star, tail = pattern.partition("*")
                if module == pattern or (star and module.startswith(head) and module.endswith(tail)):
                    middle = module[len(head) : len(module) - len(tail)]
                    yield posixpath.join(up, target.module.replace("*", middle))
    parts = module.split("/")
    for end in range(len(parts), 0, -1):
        for package in index.package("/".join(parts[:end])):
            if posixpath.basename(package) == "package.json":
                root, rest = posixpath.dirname(package), parts[end:]
                entries = [entry.module for _, entry in index.facts[package].handed_on]
                for inside in ["/".join(rest), "/".join(["src", *rest])] if rest else [*entries, "", "src", "lib"]:
                    yield posixpath.join(root, inside)


def _file(base: str, index: ModuleIndex) -> str | None:
    """`base` itself, with an ending, or as a folder with an index; a `.js` may be a `.ts` not yet compiled."""
    base = posixpath.normpath(base)
    stem = _SCRIPT.sub("", base)
    endings = [f"{base}{suffix}" for suffix in _SUFFIXES]
    compiled = [f"{stem}{suffix}" for suffix in _SUFFIXES] if stem != base else []
    files = [f"{base}/index{suffix}" for suffix in _SUFFIXES]
    exact = [base] if base.endswith(_SUFFIXES) else []
    return index.first([*exact, *endings, *compiled, *files])
