"""Includes of C and C++. The folders that a compiler is told to search are unknown: the nearest match counts."""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import C, code_of

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*(?:include|include_next|import)[ \t]*(\"[^\"\n]+\"|<[^>\n]+>)", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\\\n]|\\[\s\S])*", re.MULTILINE)
_VALUED_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+(?:\(|[ \t]+\S)", re.MULTILINE)
_DEFINITION = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w+)"
    r"|\b(?:struct|class|union|enum(?:[ \t]+class|[ \t]+struct)?|concept)[ \t]+(?:[A-Z_]+[ \t]+)?(\w+)"
    r"|\busing[ \t]+(\w+)[ \t]*="
    r"|\btypedef\b[^;{}]{0,300}?(?:\(\*[ \t]*(\w+)\)[^;]{0,300}+|\b(\w+)(?:\[[^;]{0,300}+)?);"
    r"|\}[ \t]*(\w+)[ \t]*;"
    r"|[\w*&>\]][ \t*&]{1,40}(\w+)[ \t]*\("
    r"|^[ \t]*(?:extern|constexpr|static|const|inline)\b[^;(){}=]{0,300}?\b(\w+)[ \t]*(?:\[[^;\n]{0,300})?[=;{]"
    r"|[{,][ \t\n]*([A-Z]\w*)[ \t]*(?:=[^,}\n]{0,200}+)?(?=[,}])",
    re.MULTILINE,
)
_HEADERS = (".h", ".hh", ".hpp", ".hxx")


def find(path: str, text: str) -> Facts:
    """A header of nothing but includes is an umbrella: it needs none of them itself."""
    code = code_of(text, C)
    imports = [Import(match[1].strip('"'), "*") for match in code.find(_INCLUDE)]
    defines = names(_DEFINITION, code.bare) if path.endswith(_HEADERS) else []
    rest = re.sub(r"\bextern\b|[{};\s]", "", _DIRECTIVE.sub("", code.bare))
    if path.endswith(_HEADERS) and imports and not rest and not _VALUED_DEFINE.search(code.bare):
        return Facts([], [("*", item) for item in imports], [], defines, words(code.bare))
    return Facts(imports, [], [], defines, words(code.bare))


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """The nearest file on the way up, also in an `include` folder; else the one elsewhere that ends like the include.

    `<name.h>` without a folder is looked for on the way up alone: elsewhere it would be taken for a system header.
    """
    name = posixpath.normpath(item.module.strip("<>"))
    folders = above(posixpath.dirname(path))
    tried = (posixpath.join(f, base, name) for f in folders for base in ("", "include"))
    if near := index.first(tried):
        yield Target(near, "*")
        return
    if item.module.startswith("<") and "/" not in name:
        return
    plain = name.lstrip("./")
    elsewhere = [f for f in index.named(posixpath.basename(plain)) if f.endswith(f"/{plain}")]
    if elsewhere:
        yield Target(min(elsewhere, key=lambda f: (-len(posixpath.commonprefix((f, path))), f.count("/"), f)), "*")
