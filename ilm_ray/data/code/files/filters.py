"""Files that are no code to learn from: binary, data, vendored, generated, minified (in the line of linguist)."""

import posixpath
import re
from typing import NamedTuple

from ilm_ray.data.code.files.detect import DATA, PROSE, is_binary, is_binary_name, language_of
from ilm_ray.data.code.files.generated import generated_marker
from ilm_ray.data.code.languages.imports import MANIFESTS
from ilm_ray.data.documents.document import Verdict

_VENDORED = re.compile(
    r"(^|/)(node_modules|bower_components|jspm_packages|vendors?|_vendor|third[_-]?party|3rd[_-]?party|site-packages|dist"
    r"|Godeps|Pods|Carthage|\.yarn|_build|__pycache__)/"
    r"|(^|/)(jquery|bootstrap|angular|react|vue|lodash|underscore|d3|modernizr|prototype|mootools)"
    r"([.-]v?\d[\w.]*)?(\.\w+)?\.(js|css)$"
    r"|(^|/)(gradlew(\.bat)?|mvnw(\.cmd)?|configure"
    r"|aclocal\.m4|ltmain\.sh|config\.(guess|sub)|install-sh|libtool\.m4)$"
)
_LOCKS = frozenset({
    "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "poetry.lock", "pipfile.lock", "uv.lock",
    "pdm.lock", "cargo.lock", "composer.lock", "gemfile.lock", "go.sum", "flake.lock", "mix.lock", "podfile.lock",
    "packages.lock.json", "bun.lockb", "deno.lock", "conda-lock.yml", "pubspec.lock",
})  # fmt: skip
_MINIFIED_NAME = re.compile(r"[.-](min|bundle|pack|prod)\.(js|mjs|css)$|\.(js|css)\.map$")
_ENCODED = re.compile(r"[A-Za-z0-9+/=]{512,}|(?:\\x[0-9a-fA-F]{2}){128,}")
MAX_MEAN_LINE, MAX_LINE, MAX_DIGITS, MAX_ENCODED = 200.0, 5000, 0.35, 0.25
_MINIFIED_MEAN_LINE = 110.0  # linguist's, for JavaScript and CSS
_MIN_MINIFIED_CHARS = 500
_LFS = "version https://git-lfs.github.com/spec/"  # a file that git-lfs keeps elsewhere
_LICENCE = re.compile(r"^(licen[cs]e|copying|unlicense|patents|copyright)([.-][\w.-]+)?$", re.I)


class Judged(NamedTuple):
    """The text of a file and its language, or why it falls."""

    text: str
    language: str
    verdict: Verdict | None


def path_verdict(path: str, size: int, max_bytes: int) -> Verdict | None:
    """The reason why a file falls by name and size alone and is not read, or None."""
    name = posixpath.basename(path)
    if match := _VENDORED.search(path):
        return Verdict("vendored", match[0].strip("/"), None)
    if name.lower() in _LOCKS:
        return Verdict("lock_file", name, None)
    if _MINIFIED_NAME.search(name):
        return Verdict("minified", name, None)
    if is_binary_name(path):
        return Verdict("binary", posixpath.splitext(name)[1], None)
    language = language_of(path)
    if name not in MANIFESTS and language in DATA and language != "xml":  # some XML is documentation
        return Verdict("data", language, None)
    if size > max_bytes:
        return Verdict("file_bytes", size, max_bytes)
    return Verdict("empty", size, 1) if size == 0 else None


def is_beside(path: str) -> bool:
    """Whether the file is a licence text or a manifest: it describes other files and is no data itself."""
    return is_licence(path) or posixpath.basename(path) in MANIFESTS


def is_licence(path: str) -> bool:
    """Whether the name is that of a licence's text."""
    return _LICENCE.match(posixpath.basename(path)) is not None


def judge_content(path: str, content: bytes) -> Judged:
    """Decode a file and say whether it falls by its content."""
    language = language_of(path, content)
    if is_binary(content):
        return Judged("", language or "", Verdict("binary", "content", None))
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return Judged("", language or "", Verdict("not_utf8", "", None))
    if text.startswith(_LFS):
        return Judged("", language or "", Verdict("lfs_pointer", "", None))
    if (name := posixpath.basename(path)) in MANIFESTS:
        return Judged(text, language or "", Verdict("manifest", name, None))
    if language is None:
        return Judged(text, "", Verdict("unknown_language", posixpath.splitext(path)[1], None))
    return Judged(text, language, content_verdict(path, text, language))


def content_verdict(path: str, text: str, language: str) -> Verdict | None:
    """The first rule that the text breaks; None where it holds them all. Prose has its own lines, and may be long."""
    visible = len("".join(text.split()))
    if not visible:
        return Verdict("empty", len(text), 1)
    if marker := generated_marker(path, text):
        return Verdict("generated", marker, None)
    encoded = sum(len(match[0]) for match in _ENCODED.finditer(text)) / len(text)
    if encoded > MAX_ENCODED and language != "jupyter":  # a notebook's pictures go with its outputs
        return Verdict("encoded", round(encoded, 4), MAX_ENCODED)
    if language in PROSE:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    mean, longest = sum(map(len, lines)) / len(lines), max(map(len, lines))
    if language in ("javascript", "css") and mean > _MINIFIED_MEAN_LINE and len(text) > _MIN_MINIFIED_CHARS:
        return Verdict("minified", round(mean, 1), _MINIFIED_MEAN_LINE)
    if mean > MAX_MEAN_LINE:
        return Verdict("mean_line_chars", round(mean, 1), MAX_MEAN_LINE)
    if longest > MAX_LINE:
        return Verdict("max_line_chars", longest, MAX_LINE)
    digits = sum(map(text.count, "0123456789")) / visible
    return Verdict("digit_ratio", round(digits, 4), MAX_DIGITS) if digits > MAX_DIGITS else None
