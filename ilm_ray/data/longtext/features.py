"""Statistical features of long documents: lexical, cohesion, complexity (LongWanjuan, arXiv 2402.13583, section 3).

Clean's scores of every document (`ilm_ray.data.documents.scores`) are taken as they are; seven features are for long
documents alone. None grows or shrinks with the length of a document, so that one threshold holds for all.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from ilm_ray.data.documents import scan
from ilm_ray.data.documents.characters import flags, lower_case
from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.documents.scores import score_batch
from ilm_ray.data.longtext.discourse import phrase_hashes, share_of_phrases

WINDOW = 1000  # tokens within which unique ones are counted: a longer text has fewer new words
OF_CLEAN = (
    "stop_words",
    "digit_ratio",
    "symbol_ratio",
    "url_ratio",
    "alphabetic_word_ratio",
    "mean_line_width",
    "short_line_ratio",
    "separator_ratio",
    "punctuation_ratio",
    "terminal_punctuation_ratio",
    "unpunctuated_ratio",
    "mean_sentence_words",
    "duplicate_line_ratio",
    "duplicate_10gram_ratio",
)
OF_LONG_TEXTS = (
    "conjunction_ratio",  # share of the tokens that belong to a conjunction or an adverb that joins sentences
    "pronoun_ratio",
    "unique_word_ratio",  # different tokens of 1000 consecutive ones, mean over the document
    "compression_ratio",  # bytes that zlib makes of one byte
    "median_line_chars",
    "line_chars_variation",  # standard deviation of the lines' lengths in units of their mean
    "bar_ratio",  # "|" among the characters: tables
)
FEATURES = OF_LONG_TEXTS + OF_CLEAN


def describe(texts: Sequence[str], languages: Sequence[str]) -> list[dict[str, float]]:
    """FEATURES of each text, rounded to 4 places; they depend on the text and its language alone."""
    clean = score_batch(texts, languages)
    rows = []
    for at, (text, language) in enumerate(zip(texts, languages, strict=True)):
        features = _of_one(text, language)
        rows.append(features | {name: round(float(clean[name][at]), 4) for name in OF_CLEAN})
    return rows


def _of_one(text: str, language: str) -> dict[str, float]:
    points, borders = flatten([text])
    counts = np.zeros((1, scan.COUNTS), np.int64)
    hashes, numbers = np.empty((3, len(points)), np.uint64), np.empty((6, len(points)), np.int64)
    scan.count(points, borders, flags(), lower_case(), counts, hashes, numbers)
    tokens = hashes[0, : counts[0, scan.TOKENS]]
    lines = numbers[2, : counts[0, scan.LINES]]
    raw = text.encode("utf-8", "replace")
    mean = float(lines.mean()) if len(lines) else 0.0
    values = {
        "conjunction_ratio": share_of_phrases(tokens, phrase_hashes("conjunctions", language)),
        "pronoun_ratio": share_of_phrases(tokens, phrase_hashes("pronouns", language)),
        "unique_word_ratio": _unique_share(tokens),
        "compression_ratio": len(zlib.compress(raw, 6)) / max(len(raw), 1),
        "median_line_chars": float(np.median(lines)) if len(lines) else 0.0,
        "line_chars_variation": float(lines.std()) / mean if mean else 0.0,
        "bar_ratio": text.count("|") / max(len(text), 1),
    }
    return {name: round(value, 4) for name, value in values.items()}


def _unique_share(tokens: np.ndarray) -> float:
    """Mean over the whole windows of a document, or over the part of its only one."""
    whole = max(len(tokens) // WINDOW, 1)
    windows = (tokens[at * WINDOW : (at + 1) * WINDOW] for at in range(whole))
    return float(np.mean([len(np.unique(window)) / max(len(window), 1) for window in windows]))
