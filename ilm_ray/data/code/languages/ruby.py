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
    imports = [Import(f"./{found[2]}" if found[1] == "require_relative" else found[2]) for found in code.find(_REQUIRE)]
    imports += [Import(f"./{found[1] or found[2] or found[3]}") for found in code.find(_BESIDE)]
    handed_on = [(found[1], Import(found[2])) for found in code.find(_AUTOLOAD)]
    return Facts(imports, handed_on, [], names(_DEFINITION, code.bare), words(code.bare))


def targets(user: str, path: str, found: Import, index: ModuleIndex) -> Iterator[Target]:
    """Beside the file, or in a `lib` folder or folder on the way up, which are the usual load path."""
    folder = posixpath.dirname(path)
    if found.module.startswith("./"):
        bases = [posixpath.join(folder, found.module)]
    else:
        bases = [posixpath.join(up, inside, found.module) for inside in ("lib", "") for up in above(folder)]
    if file := index.first(name for base in bases for name in (f"{base}.rb", base)):
        yield Target(file, "*")
