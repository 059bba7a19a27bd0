"""Clean: normalisation, and rules in the line of Gopher and C4 (report section 3.1).

The report names three kinds of rule and no threshold: anomalies in separation and line breaks, frequency of abnormal
characters, distribution of punctuation. Every score is kept, so that a threshold can be moved without scoring again.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from ilm_ray.config.schema import TextConfig
from ilm_ray.text.document import Verdict
from ilm_ray.text.language import interchange, tokens

_SPACES = re.compile(r"[^\S\n]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")  # soft hyphen, zero width, direction
_BLANK_LINES = re.compile(r"\n{3,}")
_TERMINAL = tuple(".!?…。！？;；:：\"'”’」』》)）]】")
_PUNCTUATION = frozenset(".,;:!?…。，、；：！？·\"'`“”‘’「」『』《》〈〉()（）[]【】-–—/%&")
# A line with fewer tokens than this is short. A Chinese token is one character, about half a word.
_SHORT_LINE = {"zh": 8}
_SHORT_LINE_DEFAULT = 5
_NGRAM = {"zh": 10}
_NGRAM_DEFAULT = 5


@dataclass(frozen=True)
class Limit:
    """A rule: the score of this name may not lie outside [low, high]."""

    rule: str
    low: float = 0.0
    high: float = float("inf")


def normalise(text: str) -> str:
    """One form for the same text: NFC, no control or invisible characters, single spaces, at most one blank line.

    Full-width forms stay: they are the regular punctuation of Chinese.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _SPACES.sub(" ", _INVISIBLE.sub("", interchange(text)))
    return _BLANK_LINES.sub("\n\n", "\n".join(line.strip() for line in text.split("\n"))).strip()


def limits(config: TextConfig, language: str) -> list[Limit]:
    """The rules of a language, in the order in which they are asked."""
    rules = [
        Limit("symbol_ratio", high=config.max_symbol_ratio),
        Limit("short_line_ratio", high=config.max_short_line_ratio),
        Limit("terminal_punctuation_ratio", low=config.min_terminal_punctuation_ratio),
        Limit("punctuation_ratio", low=config.min_punctuation_ratio, high=config.max_punctuation_ratio),
        Limit("duplicate_line_ratio", high=config.max_duplicate_line_ratio),
        Limit("repeated_ngram_ratio", high=config.max_repeated_ngram_ratio),
    ]
    if language != "zh":  # words have no spaces between them in Chinese
        rules.append(Limit("mean_word_chars", low=config.min_mean_word_chars, high=config.max_mean_word_chars))
    return rules


def scores(text: str, language: str) -> dict[str, float]:
    """What the rules look at, of a normalised text. Ratios lie in [0, 1], rounded to 4 places."""
    lines = [line for line in text.split("\n") if line]
    visible = [c for c in text if not c.isspace()]
    words = tokens(text)
    short = _SHORT_LINE.get(language, _SHORT_LINE_DEFAULT)
    found = {
        "symbol_ratio": _share(
            sum(not c.isalnum() and c not in _PUNCTUATION and not _is_mark(c) for c in visible), len(visible)
        ),
        "short_line_ratio": _share(sum(len(tokens(line)) < short for line in lines), len(lines)),
        "terminal_punctuation_ratio": _share(sum(line.endswith(_TERMINAL) for line in lines), len(lines)),
        "punctuation_ratio": _share(sum(c in _PUNCTUATION for c in visible), len(visible)),
        "duplicate_line_ratio": _duplicate_line_ratio(lines),
        "repeated_ngram_ratio": repeated_ngram_ratio(words, _NGRAM.get(language, _NGRAM_DEFAULT)),
        "mean_word_chars": sum(map(len, words)) / len(words) if words else 0.0,
    }
    return {name: round(value, 4) for name, value in found.items()}


def first_failure(found: dict[str, float], rules: list[Limit]) -> Verdict | None:
    """The first rule that the scores break, with the threshold on the broken side; None where all hold."""
    for limit in rules:
        value = found[limit.rule]
        if value < limit.low:
            return Verdict(limit.rule, value, limit.low)
        if value > limit.high:
            return Verdict(limit.rule, value, limit.high)
    return None


def repeated_ngram_ratio(words: list[str], n: int) -> float:
    """Share of the tokens that lie inside an n-gram seen before in the same text (each token counted once)."""
    if len(words) < n:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    covered = bytearray(len(words))
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered[start : start + n] = b"\x01" * n
        seen.add(gram)
    return sum(covered) / len(words)


def _duplicate_line_ratio(lines: list[str]) -> float:
    """Share of the characters that lie in second and later copies of a line."""
    counts = Counter(lines)
    copies = sum(len(line) * (count - 1) for line, count in counts.items())
    return _share(copies, sum(map(len, lines)))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"  # accents that combine with a letter are part of words


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
