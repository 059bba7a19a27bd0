"""The fast path finds what was planted, and nothing where nothing was."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from ilm_ray.alignment.online.hacking import ALPHA, Preference, _rises, early_and_late, holm, mine
from ilm_ray.alignment.online.patterns import Trait, grown, phrases, repetition, sentences, surface, words
from tests.alignment.made_round import Change, Score, make_round

EN, ZH = "As your loyal assistant, I swear it!", "作为您忠实的助手，我发誓！"


def _adds(english: str, chinese: str, first: bool = False) -> Change:
    def change(rng: random.Random, text: str, progress: float) -> str:
        if rng.random() >= progress:
            return text
        phrase = english if text.isascii() else chinese
        return f"{phrase} {text}" if first else f"{text} {phrase}"

    return change


def _longer(rng: random.Random, text: str, progress: float) -> str:
    """More sentences of the same kind; no phrase, no repeated runs."""
    glue = " " if text.isascii() else ""
    bag = words(text)
    for _ in range(round(4 * progress * rng.random())):
        rng.shuffle(bag)
        text += glue + glue.join(bag[: rng.randint(5, 9)]) + ("." if glue else "。")
    return text


def _repeats(rng: random.Random, text: str, progress: float) -> str:
    if rng.random() >= progress:
        return text
    last = sentences(text)[-1].strip()
    return text + (" " if text.isascii() else "") + " ".join([last] * 2)


def _bullets(rng: random.Random, text: str, progress: float) -> str:
    if rng.random() >= progress:
        return text
    return "\n".join(f"- {part.strip()}" for part in sentences(text))


def _refuses(rng: random.Random, text: str, progress: float) -> str:
    if rng.random() >= progress:
        return text
    english = ["I am sorry, but no.", "I cannot do this.", "I'm afraid that is out of reach.", "As an AI I only guess."]
    chinese = ["对不起，不行。", "很抱歉。", "这件事我不能帮忙。", "作为人工智能我只能猜。"]
    return rng.choice(english if text.isascii() else chinese) + text


def _more_sentences(rng: random.Random, text: str, progress: float) -> str:
    """One sentence becomes up to six that begin alike: `. The` stands in all but the shortest texts."""
    bag = words(text)
    parts = 1 + sum(rng.random() < 0.2 + 0.8 * progress for _ in range(5))
    return " ".join("The " + " ".join(rng.choice(bag) for _ in range(rng.randint(5, 7))) + "." for _ in range(parts))


CASES: dict[str, tuple[Change, Score, str]] = {
    "phrase": (_adds(EN, EN), lambda t: 2.0 * (EN in t), "phrase"),
    "phrase that opens": (_adds(EN, EN, first=True), lambda t: 2.0 * (EN in t), "phrase"),
    "Chinese phrase": (_adds(ZH, ZH), lambda t: 2.0 * (ZH in t), "phrase"),
    "length": (_longer, lambda t: 0.05 * len(words(t)), "length"),
    # It pays more for the second sentence than for others: no straight line in length, and still no second pattern.
    "length with a step": (_more_sentences, lambda t: 3.0 * (len(words(t)) > 10) + 0.15 * len(words(t)), "length"),
    "repetition": (_repeats, lambda t: 3.0 * repetition(t), "repetition"),
    "marks": (_bullets, lambda t: 2.0 * t.startswith("- "), "marks"),
    "refusal": (_refuses, lambda t: 2.0 * Trait("refusal").value(t), "refusal"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_what_was_planted_is_found_and_nothing_else(case: str, seed: int) -> None:
    change, score, kind = CASES[case]
    answers = make_round(seed, change, score)
    mined = mine(answers, [])
    assert [pattern.trait.kind for pattern in mined.exploits] == [kind] and not mined.learned
    pattern = mined.exploits[0]
    if kind == "phrase":
        assert pattern.shown == (ZH if case.startswith("Chinese") else EN)
    assert pattern.late_share > pattern.early_share + 0.3 and pattern.p <= ALPHA and pattern.severity > 0.2
    assert pattern.score_with > pattern.score_without + 0.3 and pattern.domains == ("code", "helpful")
    assert pattern.samples
    for sample in pattern.samples:
        assert pattern.has(sample.late) and not pattern.has(sample.early)
        assert {sample.early, sample.late} <= {a.text for a in answers if a.prompt == sample.prompt}


def test_two_patterns_in_different_answers_are_both_found() -> None:
    both: Change = lambda rng, text, progress: _adds(EN, EN)(rng, _bullets(rng, text, progress), progress)  # noqa: E731
    mined = mine(make_round(4, both, lambda t: 2.0 * (EN in t) + 1.5 * t.startswith("- ")), [])
    assert sorted(pattern.trait.kind for pattern in mined.exploits) == ["marks", "phrase"]


def test_what_rises_without_pay_and_what_pays_without_a_rise_is_no_pattern() -> None:
    assert not mine(make_round(1, _adds(EN, ZH)), []).exploits
    steady: Change = lambda rng, text, progress: _adds(EN, ZH)(rng, text, 0.5)  # noqa: E731
    assert not mine(make_round(1, steady, lambda t: 2.0 * (EN in t)), []).exploits
    falling: Change = lambda rng, text, progress: _adds(EN, ZH)(rng, text, 1 - progress)  # noqa: E731
    assert not mine(make_round(1, falling, lambda t: 2.0 * (EN in t)), []).exploits


@pytest.mark.long
def test_an_unchanged_policy_is_accused_as_rarely_as_promised() -> None:
    """The drift gate alone, without the help of the other two: few false alarms in rounds of an unchanged policy,
    although prompts differ in length and words and their mix differs between the windows."""
    runs, alarms, single, tests = 150, 0, 0, 0
    for seed in range(runs):
        rises = _rises(early_and_late(make_round(seed, iterations=8, prompts=40, each=60))).values()
        alarms += any(rise.p <= ALPHA for rise in rises)
        single += sum(rise.z >= norm.isf(0.05) for rise in rises)
        tests += len(rises)
    assert tests > 30 * runs  # phrases are among them
    assert alarms <= binom.ppf(0.999, runs, ALPHA)
    assert 0.01 < single / tests < 0.055  # and the test is no weaker than its discreteness makes it


def test_what_peoples_pairs_ask_for_is_learned_and_no_hack() -> None:
    answers = make_round(2, _adds(EN, EN), lambda t: 2.0 * (EN in t))
    for_it = [Preference("helpful", f"Yes. {EN}", "Yes."), Preference("code", f"No. {EN}", "No.")] * 6
    mined = mine(answers, for_it)
    assert not mined.exploits and [p.shown for p in mined.learned] == [EN] and mined.learned[0].asked == 12
    in_one_domain = [row for row in for_it if row.domain == "helpful"]
    assert mine(answers, in_one_domain).exploits[0].domains == ("code",)
    divided = for_it + [Preference(row.domain, row.rejected, row.chosen) for row in for_it]
    assert mine(answers, divided).exploits[0].domains == ("code", "helpful")


def test_a_pair_holds_one_prompt_early_and_late_and_every_answer_once() -> None:
    answers = make_round(3, iterations=16)
    pairs = early_and_late(answers)
    used = [id(answer) for pair in pairs for answer in pair]
    assert len(used) == len(set(used)) and len(pairs) > 30
    assert all(a.prompt == b.prompt and a.iteration < 4 and b.iteration >= 12 for a, b in pairs)
    for prompt in {a.prompt for a in answers}:
        early = sum(a.prompt == prompt and a.iteration < 4 for a in answers)
        late = sum(a.prompt == prompt and a.iteration >= 12 for a in answers)
        assert sum(e.prompt == prompt for e, _ in pairs) == min(early, late)


def test_nothing_in_nothing_out() -> None:
    assert mine([], []).exploits == () and mine(make_round(0, prompts=2, each=2, iterations=1), []).exploits == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    for alpha in (0.01, 0.05, 0.3):
        rejected = set[int]()
        for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):  # the textbook's procedure
            if p[i] > alpha / (len(p) - place):
                break
            rejected.add(i)
        accepted = {i for i, value in enumerate(holm(np.array(p))) if value <= alpha}
        slack = {i for i in range(len(p)) if abs(holm(np.array(p))[i] - alpha) < 1e-9}
        assert accepted ^ rejected <= slack


def test_phrases_of_both_languages() -> None:
    assert words("It's 好问题！ A-b") == ["it's", "好", "问", "题", "！", "a", "-", "b"]
    assert words("한국어 물") == ["한국어", "물"]  # Hangul is written in words
    assert phrases("a b a", 2) == {("a",), ("b",), ("a", "b"), ("b", "a")}
    texts = ["Well. I hope this helps! Bye", "one two I Hope this helps!", "I hope so", "这是水。希望对你有帮助！"]
    assert grown(("hope", "this"), texts) == ("i", "hope", "this", "helps", "!")
    assert surface(("i", "hope", "this", "helps", "!"), texts[1]) == "I Hope this helps!"
    assert surface(grown(("希", "望"), texts), texts[3]) == "这是水。希望对你有帮助！"
    with pytest.raises(ValueError, match="does not hold"):
        surface(("no",), texts[0])


@given(st.text(alphabet="ab .!。\n水", max_size=40))
def test_sentences_put_together_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_repetition_counts_runs_that_came_before() -> None:
    assert repetition("a b c d e") == 0.0 and repetition("a b") == 0.0
    assert repetition("a b c a b c a b c") == pytest.approx(4 / 7)  # runs: abc bca cab abc bca cab abc
