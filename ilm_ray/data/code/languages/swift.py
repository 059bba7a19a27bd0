"""Imports of Swift. Files of one module see each other without an import; such uses make no edge."""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, names, words
from ilm_ray.data.code.languages.lexical import SWIFT, code_of

_IMPORT = re.compile(
    r"^[ \t]*(?:@\w+(?:\([^)\n]*\))?[ \t]+|public[ \t]+|internal[ \t]+)*import[ \t]+"
    r"(?:(?:class|struct|enum|protocol|typealias|func|let|var)[ \t]+)?(\w+)",
    re.MULTILINE,
)
_DEFINITION = re.compile(
    r"\b(?:class|struct|enum|protocol|actor|typealias|macro)[ \t]+(\w+)"
    r"|^(?:@\w++[ \t]++)*+(?:public|open|internal|package)?[ \t]*+(?:func|let|var)[ \t]+(\w+)",
    re.MULTILINE,
)


def find(path: str, text: str) -> Facts:
    """An import names a module."""
    code = code_of(text, SWIFT)
    imports = [Import(match[1], "*") for match in code.find(_IMPORT)]
    return Facts(imports, [], [], names(_DEFINITION, code.bare), words(code.bare))


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """Files of the module's folder (`Sources/Name`, else any of its name) that define the names in use."""
    folders = [f for f in index.folders(item.module) if not path.startswith(f"{f}/")]
    folders.sort(key=lambda f: (posixpath.basename(posixpath.dirname(f)) != "Sources", f.count("/"), f))
    if folders:
        yield from index.used(user, [f for f in index.below(folders[0]) if f.endswith(".swift")])
