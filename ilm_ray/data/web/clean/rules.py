"""Clean: scores of whole batches, and the first rule that a document breaks (report section 3.1).

The report names three kinds of rule and no threshold: anomalies in separation and line breaks, frequency of abnormal
characters, distribution of punctuation. Repetition joins them, as in Gopher. Every score is kept, so that a threshold
can be moved without scoring again; `ilm_ray.config.thresholds` says where each default comes from.
"""

import itertools
import math
import runpy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents import scan
from ilm_ray.data.documents.characters import flags, lower_case
from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.documents.document import Verdict
from ilm_ray.data.web.clean import repetition
from ilm_ray.data.web.clean.phrases import STOP_WORDS_EN, STOP_WORDS_ZH, phrase_table

_WINDOW = 1 << 20  # characters that are scanned at once, or one text: at most 80 bytes of work space for each
_REPEATED = scan.COUNTS  # the counts of `repetition` stand right of those of `scan`

# A score is a quotient of two counts. The names that end in _ratio lie in [0, 1].
QUOTIENTS = {
    # Abnormal characters, of the visible ones or of the letters and digits.
    "broken_encoding_ratio": (scan.BROKEN, scan.VISIBLE),
    "symbol_ratio": (scan.SYMBOLS, scan.VISIBLE),
    "digit_ratio": (scan.DIGITS, scan.VISIBLE),
    "url_ratio": (scan.URLS, scan.VISIBLE),
    "upper_ratio": (scan.UPPERS, scan.LETTERS),
    "han_ratio": (scan.HAN, scan.LETTERS),
    "rare_han_ratio": (scan.RARE, scan.HAN),
    "traditional_han_ratio": (scan.TRADITIONAL, scan.HAN),
    # Words: runs of letters and digits; each Chinese character is one.
    "mean_word_chars": (scan.TOKEN_CHARS, scan.TOKENS),
    "alphabetic_word_ratio": (scan.LETTERED_TOKENS, scan.TOKENS),
    "symbols_per_word": (scan.HASH_SIGNS, scan.TOKENS),  # hash signs and ellipses
    # Separation and line breaks.
    "mean_line_width": (scan.WIDTH, scan.LINES),  # in columns, of which a Chinese character takes two
    "short_line_ratio": (scan.SHORT, scan.LINES),
    "broken_line_ratio": (scan.BROKEN_LINES, scan.LINES),
    "bullet_line_ratio": (scan.BULLETS, scan.LINES),
    "ellipsis_line_ratio": (scan.ELLIPSES, scan.LINES),
    "separator_ratio": (scan.SEPARATORS, scan.VISIBLE),
    "markup_line_ratio": (scan.MARKUP, scan.LINES),
    "boilerplate_line_ratio": (_REPEATED + repetition.BOILERPLATE, scan.LINES),
    # Punctuation.
    "punctuation_ratio": (scan.PUNCTUATION, scan.VISIBLE),
    "terminal_punctuation_ratio": (scan.COMPLETE, scan.LINES),
    "misplaced_punctuation_ratio": (scan.MISPLACED, scan.COMMAS),
    "unpunctuated_ratio": (scan.UNPUNCTUATED, scan.TOKENS),
    "mean_sentence_words": (scan.TOKENS, scan.SENTENCES),
    # Repetition. An n-gram of Chinese has 2n characters: two make an average word.
    "duplicate_line_ratio": (_REPEATED + repetition.COPIED_LINES, scan.LINES),
    "duplicate_line_char_ratio": (_REPEATED + repetition.COPIED_LINE_CHARS, scan.LINE_CHARS),
    "duplicate_paragraph_char_ratio": (_REPEATED + repetition.COPIED_PARAGRAPH_CHARS, scan.LINE_CHARS),
    "top_2gram_ratio": (_REPEATED + repetition.TOP, scan.TOKEN_CHARS),
    "top_3gram_ratio": (_REPEATED + repetition.TOP + 1, scan.TOKEN_CHARS),
    "top_4gram_ratio": (_REPEATED + repetition.TOP + 2, scan.TOKEN_CHARS),
    "duplicate_5gram_ratio": (_REPEATED + repetition.COPIED_5GRAMS, scan.TOKEN_CHARS),
    "duplicate_10gram_ratio": (_REPEATED + repetition.COPIED_10GRAMS, scan.TOKEN_CHARS),
}
RULES = ("words", "stop_words", *QUOTIENTS)
OwnRule = Callable[[str], float]


def read_rule(name: str, path: str) -> OwnRule:
    """The function `name` of a Python file. Raises UserError where there is none."""
    try:
        function = runpy.run_path(path).get(name)
    except Exception as error:  # the file may do anything
        raise UserError(f"text.own_rules.{name}: {path} does not run: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UserError(f"text.own_rules.{name}: {path} has no function {name}; write def {name}(text: str) -> float")
    return function


def score_batch(
    texts: Sequence[str], languages: Sequence[str], own: Mapping[str, OwnRule] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """What the rules look at: float64 [texts] for each of RULES and then of `own`, rounded to 4 places.

    A text's scores depend on itself and its language alone. Texts should be normalised; any string is scored. Raises
    UserError where a rule of one's own gives no finite number.
    """
    chinese = np.array([language == "zh" for language in languages], bool)
    counts = np.zeros((len(texts), scan.COUNTS + repetition.COUNTS), np.int64)
    window = np.cumsum([0, *map(len, texts)]) // _WINDOW
    for _, group in itertools.groupby(range(len(texts)), window.__getitem__):
        some = list(group)
        counts[some] = _counts([texts[at] for at in some], 1 + chinese[some].astype(np.int64))
    english_words = (1 << len(STOP_WORDS_EN)) - 1
    chinese_words = ((1 << len(STOP_WORDS_ZH)) - 1) << len(STOP_WORDS_EN)
    found = counts[:, _REPEATED + repetition.STOP_WORDS] & np.where(chinese, chinese_words, english_words)
    scores = {
        "words": counts[:, scan.TOKENS].astype(np.float64),
        "stop_words": np.bitwise_count(found).astype(np.float64),  # how many different ones
    }
    # A text without a sentence end is one sentence.
    counts[:, scan.SENTENCES] = np.maximum(counts[:, scan.SENTENCES], 1)
    for rule, (part, whole) in QUOTIENTS.items():
        quotient = counts[:, part] / np.maximum(counts[:, whole], 1)
        # Occurrences of one n-gram may overlap ("no no no"): more than everything is everything.
        scores[rule] = np.round(np.minimum(quotient, 1) if rule.endswith("_ratio") else quotient, 4)
    for rule, function in own.items():
        scores[rule] = np.array([_own_score(rule, function, text) for text in texts])
    return scores


def _own_score(rule: str, function: OwnRule, text: str) -> float:
    try:
        score = round(float(function(text)), 4)
        if math.isfinite(score):
            return score
        problem = f"it gave {score}"
    except Exception as error:  # the function may do anything
        problem = f"{type(error).__name__}: {error}"
    raise UserError(f"text.own_rules.{rule} has no score for the text that begins {text[:60]!r}: {problem}")


def _counts(texts: list[str], spans: np.ndarray) -> np.ndarray:
    """int64 [texts, counts of `scan` and of `repetition`]."""
    points, borders = flatten(texts)
    counts, again = (np.zeros((len(texts), each.COUNTS), np.int64) for each in (scan, repetition))
    hashes, numbers = np.empty((3, len(points)), np.uint64), np.empty((6, len(points)), np.int64)
    scan.count(points, borders, flags(), lower_case(), counts, hashes, numbers)
    pieces = np.ascontiguousarray(counts[:, [scan.TOKENS, scan.LINES, scan.PARAGRAPHS]])
    repetition.count(borders, spans, pieces, hashes, numbers, *phrase_table(), again)
    return np.hstack([counts, again])


def first_failures(
    scores: Mapping[str, np.ndarray],
    languages: Sequence[str],
    rules: Mapping[str, Mapping[str, tuple[float | None, float | None]]],
) -> list[Verdict | None]:
    """For each document the first rule of its language that it breaks, with the bound on the broken side.

    rules: language -> rule -> (lowest, highest), asked in this order; "*" is for languages that are not named.
    """
    verdicts: list[Verdict | None] = [None] * len(languages)
    for language in set(languages):
        open_ = np.flatnonzero([other == language for other in languages])
        for rule, (low, high) in rules.get(language, rules["*"]).items():
            values = scores[rule][open_]
            least, most = -np.inf if low is None else low, np.inf if high is None else high
            below, above = values < least, values > most
            for at, value in zip(open_[below | above].tolist(), values[below | above].tolist(), strict=True):
                verdicts[at] = Verdict(rule, value, least if value < least else most)
            open_ = open_[~(below | above)]
    return verdicts
