"""Labelled texts for the four page classifiers; label 1 is good (not toxic, not pornographic, no advert, fluent)."""

import random

from demo.bad_text import bad_article, garbled_article
from demo.code_pages import code_article
from demo.sentences import Article, writer

CLASSES = {"toxicity": "toxic", "pornography": "adult", "advertisement": "advertisement", "fluency": "garbled"}
_SUBJECTS = ("toxic", "adult", "advertisement")


def _bad(rng: random.Random, kind: str, language: str, paragraphs: int) -> Article:
    if kind == "garbled":
        return garbled_article(rng, language, paragraphs)
    return bad_article(rng, kind, language, paragraphs)


def rows(seed: int, name: str, count: int = 360) -> list[dict[str, str | int]]:
    """Texts of one to four paragraphs in both languages.

    One good text in six is bad in some other way (an advert is fluent and not toxic), so that each classifier
    learns its own matter; one in eight English ones is a tutorial.
    """
    rng = random.Random(f"{seed}-{name}")
    bad_kind = CLASSES[name]
    others = [kind for kind in _SUBJECTS if kind != bad_kind]
    examples: list[dict[str, str | int]] = []
    for number in range(count):
        language = "zh" if rng.random() < 0.4 else "en"
        paragraphs = rng.choice((1, 1, 2, 3, 4))
        label = number % 2
        if label == 0:
            text = _bad(rng, bad_kind, language, paragraphs).text
        elif rng.random() < 1 / 6:
            text = bad_article(rng, rng.choice(others), language, paragraphs).text
        elif language == "en" and rng.random() < 1 / 8:
            text = "\n".join(code_article(rng)[0].paragraphs[: 3 * paragraphs])
        else:
            text = writer(rng, language).article(paragraphs, paragraphs).text
        examples.append({"text": text, "label": label, "language": language})
    rng.shuffle(examples)
    return examples
