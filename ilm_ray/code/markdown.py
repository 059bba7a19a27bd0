"""A file as a section of markdown (report section 3.2)."""

import posixpath
import re

from ilm_ray.code.imports import DOCUMENTATION, LANGUAGES

_FENCE = re.compile(r"`{3,}")


def file_section(path: str, text: str) -> str:
    """`## path` and the fenced content. The fence is longer than any that the content holds."""
    suffix = posixpath.splitext(path)[1]
    name = LANGUAGES[suffix].name if suffix in LANGUAGES else DOCUMENTATION[suffix]
    fence = "`" * max([3, *(len(found) + 1 for found in _FENCE.findall(text))])
    return f"## {path}\n{fence}{name}\n{text.rstrip()}\n{fence}\n"
