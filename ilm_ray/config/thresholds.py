"""Default bounds of the rules of Clean: language -> rule -> (lowest, highest), in the order in which they are asked.

The InternLM2 report names its sources and no threshold. Where one of them has the rule its value is taken: Gopher (Rae
et al. 2021, table A1 and appendix A1.1), C4 (Raffel et al. 2020), FineWeb (Penedo et al. 2024). The others are ours:
books, manuals, the Brown corpus and hand-checked pages pass, planted rubbish falls
(tests/data/web/test_rules_on_data.py).
"""

import difflib
from collections.abc import Iterable
from typing import Any

Bounds = tuple[float | None, float | None]  # None: no bound on that side

_ANY: Bounds = (None, None)

_ENGLISH: dict[str, Bounds] = {
    "words": (50, 100_000),  # Gopher
    "broken_encoding_ratio": (None, 0.005),
    "symbol_ratio": (None, 0.2),
    "digit_ratio": (None, 0.2),
    "url_ratio": (None, 0.2),
    "upper_ratio": (None, 0.3),
    "han_ratio": (None, 0.2),  # more is no English text
    "rare_han_ratio": _ANY,
    "traditional_han_ratio": _ANY,
    "mean_word_chars": (3, 10),  # Gopher
    "alphabetic_word_ratio": (0.75, None),  # Gopher: 0.8, which counts a number with its unit as one word
    "symbols_per_word": (None, 0.1),  # Gopher
    "stop_words": (2, None),  # Gopher
    "mean_line_width": (15, 20_000),
    "short_line_ratio": (None, 0.7),  # FineWeb: 0.67
    "broken_line_ratio": (None, 0.4),
    "bullet_line_ratio": (None, 0.9),  # Gopher
    "ellipsis_line_ratio": (None, 0.35),  # Gopher: 0.3
    "separator_ratio": (None, 0.4),
    "markup_line_ratio": (None, 0.5),  # C4 drops a page for its first "{"
    "boilerplate_ratio": (None, 0.2),  # of the characters; C4 drops a page for its first "lorem ipsum"
    "punctuation_ratio": (0.01, 0.2),
    "terminal_punctuation_ratio": (0.05, None),  # of the characters; FineWeb: 0.12 of the lines, which loses lists
    "misplaced_punctuation_ratio": (None, 0.2),
    "unpunctuated_ratio": (None, 0.3),
    "mean_sentence_words": (4, 150),
    "duplicate_line_ratio": (None, 0.3),  # Gopher, as the five below
    "duplicate_line_char_ratio": (None, 0.2),
    "duplicate_paragraph_char_ratio": (None, 0.2),
    "top_2gram_ratio": (None, 0.2),
    "top_3gram_ratio": (None, 0.18),
    "top_4gram_ratio": (None, 0.16),
    # Gopher: 0.15 and 0.10, beyond which every eighth good manual is. Its limits for 6 to 9 lie on the line between
    # and hardly ever decide alone.
    "duplicate_5gram_ratio": (None, 0.35),
    "duplicate_10gram_ratio": (None, 0.25),
}

# None of the sources has rules for Chinese. Repetition is wider: a reference page repeats long Latin names.
_CHINESE: dict[str, Bounds] = _ENGLISH | {
    "words": (100, 200_000),  # a character is about half a word
    "digit_ratio": (None, 0.25),
    "url_ratio": (None, 0.3),
    "upper_ratio": (None, 0.6),
    "han_ratio": (0.05, None),  # manuals are half code
    "rare_han_ratio": (None, 0.1),  # UTF-8 read as GBK
    "mean_word_chars": _ANY,
    "alphabetic_word_ratio": (0.7, None),
    "stop_words": (2, None),
    "mean_line_width": (10, 20_000),
    "short_line_ratio": (None, 0.8),
    "punctuation_ratio": (0.02, 0.45),
    "misplaced_punctuation_ratio": (None, 0.03),
    "mean_sentence_words": (4, 300),
    "duplicate_line_ratio": (None, 0.35),
    "duplicate_line_char_ratio": (None, 0.3),
    "top_2gram_ratio": (None, 0.3),
    "top_3gram_ratio": (None, 0.3),
    "top_4gram_ratio": (None, 0.3),
    "duplicate_5gram_ratio": (None, 0.4),
    "duplicate_10gram_ratio": (None, 0.3),
}

# Any other language: what does not depend on its words and its script.
_OTHER: dict[str, Bounds] = _ENGLISH | {
    "han_ratio": _ANY,
    "mean_word_chars": _ANY,
    "alphabetic_word_ratio": (0.7, None),
    "stop_words": _ANY,
    "mean_line_width": (10, 20_000),
    "misplaced_punctuation_ratio": _ANY,
    "unpunctuated_ratio": _ANY,
    "mean_sentence_words": _ANY,
}

RULES: dict[str, dict[str, Bounds]] = {"en": _ENGLISH, "zh": _CHINESE, "*": _OTHER}


def merged_rules(changed: dict[Any, Any], own_rules: Iterable[str] = ()) -> dict[Any, Any]:
    """The defaults with the named changes, in the order of the defaults; [null, null] switches a rule off.

    Rules of one's own come last and have no default bounds. Raises ValueError for an unknown language or rule, with the
    nearest right name, and for bounds that admit nothing.
    """
    tables = {language: table | dict.fromkeys(own_rules, _ANY) for language, table in RULES.items()}
    for language, rules in changed.items():
        if language not in tables:
            raise ValueError(
                f"unknown language '{language}' of rules; write one of {', '.join(tables)} (* for the others)"
            )
        if not isinstance(rules, dict):
            raise ValueError(f"rules of '{language}' are a table: rule -> [lowest, highest]")
        for rule, bounds in rules.items():
            if rule not in tables[language]:
                near = difflib.get_close_matches(str(rule), tables[language], n=1, cutoff=0.3)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(tables[language])}"
                raise ValueError(f"unknown rule '{rule}' of '{language}'; {hint}")
            if not isinstance(bounds, list | tuple) or len(bounds) != 2:
                raise ValueError(f"rule '{rule}' of '{language}' takes [lowest, highest], null for no bound")
            numbers = [bound for bound in bounds if isinstance(bound, int | float)]
            if len(numbers) == 2 and numbers[0] > numbers[1]:
                raise ValueError(f"rule '{rule}' of '{language}': the lowest, {numbers[0]}, lies above the highest")
    return {language: table | changed.get(language, {}) for language, table in tables.items()}
