"""The language of a file by its name, and where that does not tell, by its first line (from identify and pygments)."""

import functools
import io
import posixpath
import re

from identify import identify
from pygments.lexers import (  # type: ignore[import-untyped]
    find_lexer_class_by_name,
    find_lexer_class_for_filename,
)
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

PROSE = frozenset({"markdown", "restructuredtext", "text", "html", "tex", "asciidoc", "org", "jupyter"})
DATA = frozenset({
    "csv", "diff", "geojson", "ini", "json", "json-object", "jsonld", "json5", "ndjson", "pem", "plain-data", "pofile",
    "pot", "properties", "requirements", "svg", "toml", "tsv", "xml", "yaml",
})  # fmt: skip
# Suffixes of several languages, of which pygments takes another one without looking inside; and some that it lacks.
_COMMON = {
    ".pl": "perl", ".pm": "perl", ".r": "r", ".sql": "sql",
    ".ipynb": "jupyter", ".adoc": "asciidoc", ".log": "plain-data",
    ".csv": "csv", ".tsv": "tsv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".geojson": "geojson", ".svg": "svg",
    ".po": "pofile", ".pot": "pofile", ".def": "plain-data",
}  # fmt: skip
_INSIDE = {
    ".h": (re.compile(r"^\s*(class\s+\w+\s*[:{;]|namespace\s+\w+|template\s*<|using\s+namespace)", re.M), "cpp"),
    ".m": (re.compile(r"^\s*(function\b|%)", re.M), "matlab"),
}
_HEAD = 4096  # bytes that tell text from binary and name an interpreter


def language_of(path: str, head: bytes = b"") -> str | None:
    """The language's usual name (that of a fenced block's info string); None where neither name nor head tells.

    `head` holds the first bytes of the content; without it only the name is looked at.
    """
    name = posixpath.basename(path)
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _INSIDE and head and _INSIDE[suffix][0].search(head[:_HEAD].decode("utf-8", "replace")):
        return _INSIDE[suffix][1]
    # Files of one suffix have one language: the table of patterns is searched once for each.
    language = (_by_name(f"x{suffix}") if suffix and not _has_own_name(name) else None) or _by_name(name)
    if language is None and head.startswith(b"#!"):
        language = _by_interpreter(identify.parse_shebang(io.BytesIO(head[:_HEAD])))
    return language


def is_binary_name(path: str) -> bool:
    """Whether the name alone shows that the file is no text."""
    return "binary" in _tags(posixpath.splitext(path)[1].lower())


def is_binary(head: bytes) -> bool:
    """Whether the content holds bytes that no text holds. UTF-16 counts as binary."""
    return not identify.is_text(io.BytesIO(head))


@functools.lru_cache(maxsize=4096)
def _by_name(name: str) -> str | None:
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _COMMON:
        return _COMMON[suffix]
    lexer = find_lexer_class_for_filename(name)
    if lexer is not None and lexer.aliases:
        return str(lexer.aliases[0])
    tags = identify.tags_from_filename(name) - {"text", "binary"}
    return "text" if "plain-text" in tags else min(tags, default=None)


@functools.lru_cache(maxsize=4096)
def _has_own_name(name: str) -> bool:
    """CMakeLists.txt, requirements.txt: the name says more than the suffix."""
    lexer = find_lexer_class_for_filename(name)
    return lexer is not None and any(name == pattern for pattern in lexer.filenames)


def _by_interpreter(command: tuple[str, ...]) -> str | None:
    for tag in sorted(identify.tags_from_interpreter(command[0]) if command else ()):
        try:
            return str(find_lexer_class_by_name(tag).aliases[0])
        except ClassNotFound:
            continue
    return None


@functools.lru_cache(maxsize=4096)
def _tags(suffix: str) -> frozenset[str]:
    return frozenset(identify.tags_from_filename(f"x{suffix}"))
