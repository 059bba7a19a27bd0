"""Features against plain definitions, by brute force on random and hand-made texts."""

import random
import re
import statistics
import zlib

import pytest

from ilm_ray.data.documents.language import tokens
from ilm_ray.data.longtext.discourse import CONJUNCTIONS, PRONOUNS, phrases
from ilm_ray.data.longtext.features import FEATURES, WINDOW, describe

ENGLISH = re.findall(r"\S+", "as a result he went , and then she said that on the other hand it was cold ; 42 came")
CHINESE = list("因为他们来了所以我不去但是天气很冷与此同时大家都笑也就是说没有人。，\n")


def plain(text: str, language: str) -> dict[str, float]:
    words = tokens(text)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    lengths = [len(line) for line in lines] or [0]
    windows = [words[i : i + WINDOW] for i in range(0, max(len(words) - WINDOW + 1, 1), WINDOW)]
    mean = statistics.fmean(lengths)
    return {
        "conjunction_ratio": covered(words, phrases(CONJUNCTIONS, language)),
        "pronoun_ratio": covered(words, phrases(PRONOUNS, language)),
        "unique_word_ratio": statistics.fmean(len(set(w)) / max(len(w), 1) for w in windows),
        "compression_ratio": len(zlib.compress(text.encode(), 6)) / max(len(text.encode()), 1),
        "median_line_chars": statistics.median(lengths),
        "line_chars_variation": statistics.pstdev(lengths) / mean if mean else 0.0,
        "bar_ratio": text.count("|") / max(len(text), 1),
    }


def covered(words: list[str], listed: list[str]) -> float:
    """Share of the words that lie within any occurrence of a phrase."""
    inside = set[int]()
    for phrase in map(tokens, listed):
        for at in range(len(words) - len(phrase) + 1):
            if words[at : at + len(phrase)] == phrase:
                inside |= set(range(at, at + len(phrase)))
    return len(inside) / len(words) if words else 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_features_are_what_their_definitions_say(language: str) -> None:
    rng = random.Random(3)
    made = []
    for size in (0, 1, 3, 40, 900, 2500):
        words = rng.choices(ENGLISH if language == "en" else CHINESE, k=size)
        text = (" " if language == "en" else "").join(words)
        made.append(re.sub(r" ([;|]) ", r" \1\n", text) + rng.choice(["", "\n| a | 1 |\n\n", " \n"]))
    for text, features in zip(made, describe(made, [language] * len(made)), strict=True):
        assert features.keys() == set(FEATURES)
        for name, value in plain(text, language).items():
            assert features[name] == pytest.approx(value, abs=6e-5), (name, text[:80])


def test_a_text_is_described_alike_in_any_company() -> None:
    rng = random.Random(5)
    made = [" ".join(rng.choices(ENGLISH, k=rng.randrange(1, 300))) for _ in range(12)]
    together = describe(made, ["en"] * len(made))
    assert together == [describe([text], ["en"])[0] for text in made]


def test_a_features_value_does_not_depend_on_the_length() -> None:
    """A document of the same kind of text five times as long has about the same features."""
    rng = random.Random(11)
    vocabulary = [f"w{i}" for i in range(3000)] + ENGLISH * 60

    def text(sentences: int) -> str:
        return "\n".join(" ".join(rng.choices(vocabulary, k=rng.randrange(8, 20))) + "." for _ in range(sentences))

    short, long_ = describe([text(400), text(2000)], ["en", "en"])
    for name in ("conjunction_ratio", "pronoun_ratio", "unique_word_ratio", "compression_ratio", "mean_line_width"):
        assert short[name] == pytest.approx(long_[name], rel=0.15), name
