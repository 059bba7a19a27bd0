"""Rule scorers of a file's content, not of its layout: the report found that style says nothing of quality."""

import ast
import re
import warnings
import zlib

from ilm_ray.data.code.files.detect import PROSE
from ilm_ray.data.code.files.tokens import canonical
from ilm_ray.data.documents.document import Verdict
from ilm_ray.data.documents.language import TOKENS

HIGH, MODERATE, LOW = "high", "moderate", "low"
TIERS = (LOW, MODERATE, HIGH)
# A comment without an end goes to the end of the file, so that one scan is enough whatever a file holds.
_SLASH = re.compile(r"//[^\n]*|/\*[\s\S]*?(?:\*/|\Z)")
_HASH = re.compile(r"#[^\n]*|\"\"\"[\s\S]*?(?:\"\"\"|\Z)|'''[\s\S]*?(?:'''|\Z)")
_DASH = re.compile(r"--[^\n]*")
_LETTERS = re.compile(r"[^\W\d_]")
_COMMENTS = {
    **dict.fromkeys(
        ("python", "cython", "ruby", "perl", "bash", "r", "make", "cmake", "docker", "elixir", "julia", "nim"), _HASH
    ),
    **dict.fromkeys(("sql", "haskell", "lua", "ada", "vhdl"), _DASH),
}
_SMALL = 4096  # characters: compression ratios of shorter texts are not comparable with those of longer ones
_ANY = float("inf")
# (score, lowest, highest): outside of these a file is low. Not stated in the report; set by looking at files near them.
_LOW = (
    ("code_tokens", 10.0, _ANY),
    ("parses", 1.0, _ANY),
    ("repeated_line_ratio", 0.0, 0.7),
    ("compression", 0.0, 20.0),
    ("letter_ratio", 0.25, 1.0),
)
# Within these it is high: enough of it, explained, and not saying the same again and again.
_HIGH = (
    ("code_tokens", 150.0, _ANY),
    ("comment_ratio", 0.08, 0.9),
    ("repeated_line_ratio", 0.0, 0.35),
    ("compression", 0.0, 7.0),
)


def scores(text: str, language: str) -> dict[str, float]:
    """The scores that the rules read, each a column of the row. Ratios lie in [0, 1], rounded to 4 places."""
    words = TOKENS.findall(canonical(text))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    long = [line for line in lines if len(line) > 3]  # a closing bracket may stand on many lines
    comments = sum(len(match[0]) for match in _COMMENTS.get(language, _SLASH).finditer(text))
    visible = sum(map(len, lines))
    raw = text[: 1 << 16].encode("utf-8", "replace")
    columns = {
        "code_tokens": float(len(words)),
        "comment_ratio": min(1.0, comments / max(len(text), 1)),
        "repeated_line_ratio": 1.0 - len(set(long)) / len(long) if long else 0.0,
        "distinct_token_ratio": len(set(words)) / len(words) if words else 0.0,
        "compression": len(raw) / len(zlib.compress(raw, 6)) if len(text) >= _SMALL else 1.0,
        "letter_ratio": len(_LETTERS.findall(text)) / max(visible, 1),
        "parses": float(_parses(text)) if language == "python" else 1.0,
    }
    return {name: round(value, 4) for name, value in columns.items()}


def low_quality(columns: dict[str, float], language: str) -> Verdict | None:
    """The first rule by which a file is low. Of prose only the number of its tokens counts."""
    for name, low, high in _LOW[:1] if language in PROSE else _LOW:
        if columns[name] < low:
            return Verdict(f"low_{name}", columns[name], low)
        if columns[name] > high:
            return Verdict(f"low_{name}", columns[name], high)
    return None


def rule_tier(columns: dict[str, float], language: str) -> str:
    """high, moderate or low by the rules alone."""
    if low_quality(columns, language) is not None:
        return LOW
    high = language not in PROSE and all(low <= columns[name] <= high for name, low, high in _HIGH)
    return HIGH if high else MODERATE


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():  # the file's escapes are not our concern
            warnings.simplefilter("ignore")
            compile(text, "<file>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError:
        return (
            "print " in text and re.search(r"^[ \t]*print[ \t]+[^(=\s]", text, re.M) is not None
        )  # Python 2 is no error
    except (ValueError, RecursionError, MemoryError):
        return False
    return True
