"""Imports of Ruby. Constants that a framework loads by their names are not imported and make no edge."""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import RUBY, code_of

_REQUIRE = re.compile(r"^[ \t]*(require_relative|require|load)[ \t(]*[\"']([^\"'\n]+)[\"']", re.MULTILINE)
_BESIDE = re.compile(
    r"^[ \t]*(?:require|load)[ \t(]*File\.(?:expand_path\([ \t]*[\"'](?:\.\./)?([^\"'\n]+)[\"'][ \t]*,[ \t]*__FILE__"
    r"|(?:expand_path|join)\([ \t]*(?:__dir__[ \t]*,[ \t]*[\"']([^\"'\n]+)[\"']"
    r"|[\"']([^\"'\n]+)[\"'][ \t]*,[ \t]*__dir__))",
    re.MULTILINE,
)
_AUTOLOAD = re.compile(r"^[ \t]*autoload[ \t(]*:(\w+)[ \t]*,[ \t]*[\"']([^\"'\n]+)[\"']", re.MULTILINE)
_DEFINITION = re.compile(r"^[ \t]*(?:class|module)[ \t]+(?:\w+::)*(\w+)|^[ \t]*def[ \t]+(?:self\.)?(\w+)", re.MULTILINE)


def find(path: str, text: str) -> Facts:
    """`autoload` hands a constant on; it needs its file only where the constant is used."""
    code = code_of(text, RUBY)
    imports = [Import(f"./{match[2]}" if match[1] == "require_relative" else match[2]) for match in code.find(_REQUIRE)]
    imports += [Import(f"./{match[1] or match[2] or match[3]}") for match in code.find(_BESIDE)]
    handed_on = [(match[1], Import(match[2])) for match in code.find(_AUTOLOAD)]
    return Facts(imports, handed_on, [], names(_DEFINITION, code.bare), words(code.bare))


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """Beside the file, or in a `lib` folder or folder on the way up, which are the usual load path."""
    folder = posixpath.dirname(path)
    if item.module.startswith("./"):
        bases = [posixpath.join(folder, item.module)]
    else:
        bases = [posixpath.join(up, inside, item.module) for inside in ("lib", "") for up in above(folder)]
    if file := index.first(name for base in bases for name in (f"{base}.rb", base)):
        yield Target(file, "*")
