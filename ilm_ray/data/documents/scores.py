"""Statistical scores of batches of texts: Clean bounds them, long text reads them as features (report section 3.1).

The report names three kinds: anomalies in separation and line breaks, frequency of abnormal characters, distribution of
punctuation. Repetition joins them, as in Gopher.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from ilm_ray.data.documents import repetition, scan
from ilm_ray.data.documents.characters import flags, lower_case
from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.documents.phrases import STOP_WORDS_EN, STOP_WORDS_ZH, phrase_table

_WINDOW = 1 << 20  # characters that are scanned at once, or one text: at most 80 bytes of work space for each
SLIPS = 2  # misplaced marks that a text is allowed
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
    "boilerplate_ratio": (_REPEATED + repetition.BOILERPLATE, scan.LINE_CHARS),
    # Punctuation.
    "punctuation_ratio": (scan.PUNCTUATION, scan.VISIBLE),
    "terminal_punctuation_ratio": (scan.FINISHED, scan.LINE_CHARS),  # characters up to a line's last sentence end
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
SCORES = ("words", "stop_words", *QUOTIENTS)


def score_batch(texts: Sequence[str], languages: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of SCORES -> float64 [texts], rounded to 4 places.

    A text's scores depend on itself and its language alone. Texts should be normalised; any string is scored.
    """
    chinese = np.array([language == "zh" for language in languages], bool)
    counts = np.zeros((len(texts), scan.COUNTS + repetition.COUNTS), np.int64)
    window = np.cumsum([0, *map(len, texts)]) // _WINDOW
    for _, group in itertools.groupby(range(len(texts)), window.__getitem__):
        some = list(group)
        counts[some] = _counts([texts[at] for at in some], 1 + chinese[some].astype(np.int64))
    english_words = (1 << len(STOP_WORDS_EN)) - 1
    chinese_words = ((1 << len(STOP_WORDS_ZH)) - 1) << len(STOP_WORDS_EN)
    stop_words = counts[:, _REPEATED + repetition.STOP_WORDS] & np.where(chinese, chinese_words, english_words)
    scores = {
        "words": counts[:, scan.TOKENS].astype(np.float64),
        "stop_words": np.bitwise_count(stop_words).astype(np.float64),  # how many different ones
    }
    # Two slips make no habit: a short text has thirty marks.
    counts[:, scan.MISPLACED] = np.maximum(counts[:, scan.MISPLACED] - SLIPS, 0)
    # A text without a sentence end is one sentence.
    counts[:, scan.SENTENCES] = np.maximum(counts[:, scan.SENTENCES], 1)
    for name, (part, whole) in QUOTIENTS.items():
        quotient = counts[:, part] / np.maximum(counts[:, whole], 1)
        # Occurrences of one n-gram may overlap ("no no no"): more than everything is everything.
        scores[name] = np.round(np.minimum(quotient, 1) if name.endswith("_ratio") else quotient, 4)
    return scores


def _counts(texts: list[str], spans: np.ndarray) -> np.ndarray:
    """int64 [texts, counts of `scan` and of `repetition`]."""
    points, borders = flatten(texts)
    counts, again = (np.zeros((len(texts), each.COUNTS), np.int64) for each in (scan, repetition))
    hashes, numbers = np.empty((3, len(points)), np.uint64), np.empty((6, len(points)), np.int64)
    scan.count(points, borders, flags(), lower_case(), counts, hashes, numbers)
    pieces = np.ascontiguousarray(counts[:, [scan.TOKENS, scan.LINES, scan.PARAGRAPHS]])
    repetition.count(borders, spans, pieces, hashes, numbers, *phrase_table(), again)
    return np.hstack([counts, again])
