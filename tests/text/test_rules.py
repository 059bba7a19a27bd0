"""Rules by property: clean paragraphs pass, each corruption falls by the rule made for it."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.config.schema import TextConfig
from ilm_ray.text.rules import first_failure, limits, normalise, repeated_ngram_ratio, scores

EN = """The miller opens the gate every morning and lets the water run over the wooden wheel.
By noon the sacks stand in a long row, and farmers from three villages wait in the yard.
Nobody remembers who built the dam, although an old letter in the church names a monk.
When the river freezes, the whole family carries buckets from the well behind the barn.
In spring the swallows return, and their nests fill the corners under the mossy roof."""
ZH = """清晨，磨坊主人打开水闸，让河水冲过木头的水轮，声音传得很远。
到了中午，院子里已经排满了麻袋，三个村子的农民都在这里等候。
没有人记得水坝是谁修的，不过教堂里的一封旧信提到过一位僧人。
河水结冰的时候，全家人都要从谷仓后面的水井里一桶一桶地打水。
春天燕子飞回来了，长满青苔的屋檐下面到处都是它们的新巢。"""


def failure(text: str, language: str) -> str | None:
    text = normalise(text)
    found = first_failure(scores(text, language), limits(TextConfig(), language))
    return found.rule if found else None


@pytest.mark.parametrize(("text", "language"), [(EN, "en"), (ZH, "zh")])
def test_each_corruption_falls_by_its_rule(text: str, language: str) -> None:
    assert failure(text, language) is None
    rng = random.Random(1)
    lines = text.split("\n")
    pieces = [text[i : i + 6] for i in range(0, len(text), 6)] if language == "zh" else text.split()
    corrupted = {
        "symbol_ratio": "".join(c + ("#~|^"[rng.randrange(4)] if rng.random() < 0.6 else "") for c in text),
        "short_line_ratio": "\n".join(pieces),
        "terminal_punctuation_ratio": "\n".join(line.rstrip(".。") + " x" for line in lines),
        "punctuation_ratio": "".join(c for c in text if c.isalnum() or c.isspace()).replace("\n", "。\n", 1)
        if language == "zh"
        else "\n".join("!?!...,,;" + line.replace(" ", " ,.;") for line in lines),
        "duplicate_line_ratio": "\n".join(lines[:2] * 4),
        "repeated_ngram_ratio": text + " " + " ".join(lines[:4]) + " " + " ".join(lines[1:]),
    }
    if language == "zh":
        corrupted["punctuation_ratio"] = "".join(c + ("，！；"[rng.randrange(3)]) for c in text)
    for rule, bad in corrupted.items():
        assert failure(bad, language) == rule, rule


def test_words_stuck_together_or_torn_apart_fall_in_english_only() -> None:
    stuck = re.sub(r"(\w+) (\w+) ", r"\1\2 ", re.sub(r"(\w+) (\w+) ", r"\1\2 ", EN))
    assert failure(stuck, "en") == "mean_word_chars"
    torn = "\n".join(" ".join(line) for line in EN.split("\n"))
    assert failure(torn, "en") == "mean_word_chars"
    assert failure(ZH, "zh") is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_normalise_is_idempotent_and_scores_are_bounded(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    for language in ("en", "zh"):
        for name, value in scores(once, language).items():
            assert name == "mean_word_chars" or 0.0 <= value <= 1.0


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 5))
def test_repeated_ngrams_equal_the_definition(words: list[str], n: int) -> None:
    covered = {
        j
        for i in range(len(words) - n + 1)
        if any(words[k : k + n] == words[i : i + n] for k in range(i))
        for j in range(i, i + n)
    }
    expected = len(covered) / len(words) if len(words) >= n and words else 0.0
    assert repeated_ngram_ratio(words, n) == pytest.approx(expected)
