"""Rules: scores equal their plain definition, good text passes, each kind of rubbish falls."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.plain_rules import plain_scores
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.config.thresholds import RULES as TABLE
from ilm_ray.data.documents.document import Verdict
from ilm_ray.data.documents.scores import SCORES, score_batch
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures, own_scores, read_rule
from tests.data.web.rubbish import KINDS

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
TEXTS = {"en": EN, "zh": ZH}
# What the kernels look at, to be strung together at random.
PIECES = [
    *"的中国鐨錯，。、！？“”（）．…#-*_=:,.;'éßİǅΣा٣\u0300\u3000\t\n\n\ue000\ufffd\u200d𠀀😀𝐀",
    *(
        "the ",
        "The ",
        "of ",
        "have ",
        "and ",
        " ",
        "  ",
        "\n\n",
        "...",
        "----",
        "====",
        "{",
        "}",
        "</",
        "/>",
        "=>",
        ");",
    ),
    *(
        "http://a.b/c",
        "https://",
        "www.x.y",
        "www.",
        "Ã©",
        "â€™",
        "ä½\xa0",
        "Ð°",
        "锟斤拷",
        "烫烫烫烫",
        "- ",
        "• ",
        "·",
    ),
    *(
        "privacy policy",
        "lorem ipsum",
        "版权所有",
        "ICP备",
        "，的",
        "。了解",
        "A",
        "B",
        "1",
        "23",
        "don't",
        "x" * 12,
        "！！",
        "。”",
    ),
]


def verdict(text: str, language: str) -> Verdict | None:
    text = drop_chrome(normalise(text))[0]
    return first_failures(score_batch([text], [language]), [language], TextConfig().rules)[0]


@st.composite
def strings(draw: st.DrawFn) -> str:
    some = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
    return "".join(draw(st.lists(st.sampled_from(some), max_size=120)))


@pytest.mark.long
@settings(max_examples=300)
@given(strings() | st.text(max_size=200), st.sampled_from(["en", "zh", "de"]))
def test_scores_equal_their_plain_definition(text: str, language: str) -> None:
    assert {rule: values[0] for rule, values in score_batch([text], [language]).items()} == plain_scores(text, language)


@pytest.mark.long
@settings(max_examples=20)
@given(st.lists(strings(), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_score_does_not_depend_on_its_batch(texts: list[str], rng: random.Random) -> None:
    languages = [rng.choice(["en", "zh", "de"]) for _ in texts]
    together = score_batch(texts, languages)
    order = rng.sample(range(len(texts)), len(texts))
    mixed = score_batch([texts[i] for i in order], [languages[i] for i in order])
    for rule in SCORES:
        assert mixed[rule].tolist() == [together[rule][i] for i in order]
        assert together[rule].tolist() == [
            score_batch([t], [x])[rule][0] for t, x in zip(texts, languages, strict=True)
        ]
        assert rule.endswith("_ratio") <= bool(np.all((together[rule] >= 0) & (together[rule] <= 1)))


def test_long_texts_are_scanned_one_after_the_other() -> None:
    long = [EN * 1500, ZH * 4000, EN, EN * 3000, ""]
    languages = ["en", "zh", "en", "en", "en"]
    together = score_batch(long, languages)
    for at, (text, language) in enumerate(zip(long, languages, strict=True)):
        assert {rule: values[0] for rule, values in score_batch([text], [language]).items()} == {
            rule: values[at] for rule, values in together.items()
        }


def test_no_text_and_no_batch_have_scores_too() -> None:
    assert all(values.tolist() == [] for values in score_batch([], []).values())
    assert score_batch([""], ["en"]) == {rule: [0.0] for rule in SCORES}


@pytest.mark.parametrize("language", TEXTS)
def test_good_text_passes_and_each_rubbish_falls(language: str) -> None:
    assert verdict(TEXTS[language], language) is None
    rng = random.Random(1)
    fallen = {
        kind: [verdict(make(TEXTS[language], language, rng), language) for _ in range(30)]
        for kind, make in KINDS.items()
    }
    for kind, verdicts in fallen.items():
        assert sum(v is not None for v in verdicts) >= 27, kind


def _torn(text: str) -> str:
    return "\n".join(" ".join(text.split()[i : i + 3]) for i in range(0, len(text.split()), 3))


@pytest.mark.parametrize(
    ("rule", "language", "damage"),
    [
        ("words", "en", lambda text: text[:200]),
        ("broken_encoding_ratio", "en", lambda text: text.replace(" w", " â€œw")),
        ("symbol_ratio", "en", lambda text: "".join(c + "~^" * (c in "aeo") for c in text)),
        ("digit_ratio", "en", lambda text: re.sub("[aeo]", "7", text)),
        ("url_ratio", "en", lambda text: text.replace(" the ", " http://the.example.org/page ")),
        ("upper_ratio", "en", str.upper),
        ("han_ratio", "zh", lambda text: EN + EN + EN + text[:20]),
        ("rare_han_ratio", "zh", lambda text: text.replace("的", "鐨勩").replace("，", "锛岋")),
        ("mean_word_chars", "en", lambda text: re.sub(r"(\w+) (\w+) (\w+) (\w+)", r"\1\2\3\4", text * 4)),
        ("mean_word_chars", "en", lambda text: "\n".join(" ".join(line) for line in text.split("\n"))),
        ("alphabetic_word_ratio", "en", lambda text: re.sub(r"(\w+) (\w+)", r"\1 42 \2", text)),
        ("symbols_per_word", "en", lambda text: text.replace(" the ", " #the #")),
        ("stop_words", "en", lambda text: re.sub(r"(?i)\b(the|of|and|be|to|that|have|with)\b", "xyz", text)),
        ("short_line_ratio", "en", _torn),
        ("bullet_line_ratio", "en", lambda text: "- " + text.replace("\n", "\n- ")),
        ("ellipsis_line_ratio", "en", lambda text: text.replace(".\n", "...\n")),
        ("separator_ratio", "en", lambda text: text.replace("\n", "\n" + "-" * 90 + "\n")),
        ("markup_line_ratio", "en", lambda text: text.replace(".\n", " {\n").replace(" roof", " }roof")),
        ("boilerplate_ratio", "en", lambda text: text + "\nLorem ipsum dolor sit amet, consectetur.\n" * 3),
        ("punctuation_ratio", "zh", lambda text: "".join(c + ("！！") for c in text)),
        ("terminal_punctuation_ratio", "en", lambda text: text.replace(".", ",")),
        ("misplaced_punctuation_ratio", "zh", lambda text: text.replace("，", "，、")),
        ("unpunctuated_ratio", "en", lambda text: re.sub("[,.\n]+", " ", f"{text} {text}") + f"\n{text}\n{text}"),
        ("mean_sentence_words", "en", lambda text: f"{text}\n{text}\n{text}".replace(".", ";")),
        ("duplicate_line_ratio", "en", lambda text: "\n".join(text.split("\n")[:2] * 4)),
        ("duplicate_5gram_ratio", "en", lambda text: text + " " + text.replace("\n", " ")),
        ("top_2gram_ratio", "en", lambda text: re.sub(" the |, ", " wonder mattress ", text) + " The end."),
    ],
)  # fmt: skip
def test_each_damage_falls_by_the_rule_made_for_it(rule: str, language: str, damage: Callable[[str], str]) -> None:
    failure = verdict(damage(TEXTS[language]), language)
    assert failure is not None and failure.rule == rule


def test_the_first_broken_rule_of_the_language_decides() -> None:
    scores = {"a": np.array([0.5, 0.5, 0.1, 0.9]), "b": np.array([3.0, 9.0, 3.0, 3.0])}
    rules = {"en": {"b": (None, 4), "a": (0.2, 0.8)}, "*": {"a": (None, None), "b": (5, None)}}
    assert first_failures(scores, ["en", "en", "en", "en"], rules) == [
        None,
        Verdict("b", 9.0, 4.0),
        Verdict("a", 0.1, 0.2),
        Verdict("a", 0.9, 0.8),
    ]
    assert first_failures(scores, ["de", "fr", "en", "de"], rules)[::3] == [Verdict("b", 3.0, 5.0)] * 2


def test_every_language_has_bounds_for_every_score() -> None:
    assert {language: set(rules) for language, rules in TABLE.items()} == {key: set(SCORES) for key in TABLE}


def test_one_bound_can_be_set_and_the_others_stay() -> None:
    rules = load_config("nano", None, ["text.rules.en.symbol_ratio=[null,0.3]"]).text.rules
    assert rules["en"]["symbol_ratio"] == (None, 0.3)
    assert {**rules["en"], "symbol_ratio": TABLE["en"]["symbol_ratio"]} == TABLE["en"]
    assert rules["zh"] == TABLE["zh"] and list(rules["en"]) == list(TABLE["en"])
    books = "text.sources={books: {input: x, settings: {rules: {en: {words: [null, null]}}}}}"
    config = load_config("nano", None, ["text.rules.en.symbol_ratio=[null,0.3]", books]).text.for_source("books")
    assert (config.rules["en"]["words"], config.rules["en"]["symbol_ratio"]) == ((None, None), (None, 0.3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("text.rules.en.symbl_ratio=[null,0.3]", "did you mean 'symbol_ratio'"),
        ("text.rules.cn.symbol_ratio=[null,0.3]", "unknown language 'cn'.*en, zh"),
        ("text.rules.en.symbol_ratio=0.3", r"takes \[lowest, highest\]"),
        ("text.rules.en.symbol_ratio=[0.3,0.1]", "lies above"),
        ("text.rules.en.symbol_ratio=[low,0.1]", "valid number"),
        ("text.sources={books: {input: x, settings: {rules: {en: {wrds: [1, 2]}}}}}", "did you mean 'words'"),
    ],
)
def test_wrong_bounds_are_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config("nano", None, [setting])
    assert "\n" not in str(caught.value)


OWN = """
import math

def shouting(text: str) -> float:
    return text.count("!") / max(len(text), 1)

def broken(text: str) -> float:
    return math.nan if text else 1 / 0
"""


def test_a_rule_of_ones_own_is_a_column_and_is_asked_last(tmp_path: Path) -> None:
    path = str(tmp_path / "own.py")
    Path(path).write_text(OWN)
    bounds = {"en": {"shouting": [None, 0.25], "words": [2, None]}}
    config = TextConfig.model_validate({"own_rules": {"shouting": path}, "rules": bounds})
    assert [*config.rules["en"]][-1] == "shouting" and config.rules["zh"]["shouting"] == (None, None)
    assert TextConfig.model_validate(config.model_dump()) == config
    texts = ["hey!!!!!!", "so it is!"]
    scores = score_batch(texts, ["en", "en"]) | own_scores(texts, {"shouting": read_rule("shouting", path)})
    assert scores.pop("shouting").tolist() == [round(6 / 9, 4), round(1 / 9, 4)]
    assert {rule: values.tolist() for rule, values in scores.items()} == {
        rule: values.tolist() for rule, values in score_batch(texts, ["en", "en"]).items()
    }
    own_alone = {"en": {"shouting": config.rules["en"]["shouting"]}, "*": {}}
    scores = score_batch(texts, ["en", "en"]) | own_scores(texts, {"shouting": read_rule("shouting", path)})
    assert first_failures(scores, ["en", "en"], own_alone) == [Verdict("shouting", 0.6667, 0.25), None]


def test_rules_of_ones_own_that_cannot_be_asked_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "own.py")
    Path(path).write_text(OWN)
    (tmp_path / "bad.py").write_text("def rule(")
    for name, file, message in (
        ("nothing", path, "has no function nothing"),
        ("rule", str(tmp_path / "bad.py"), "does not run: SyntaxError"),
        ("rule", str(tmp_path / "none.py"), "does not run: FileNotFoundError"),
    ):
        with pytest.raises(UserError, match=message):
            read_rule(name, file)
    for text, message in (("a", "it gave nan"), ("", "ZeroDivisionError")):
        with pytest.raises(UserError, match=f"own_rules.broken has no score .*{message}"):
            own_scores([text], {"broken": read_rule("broken", path)})
    for name in ("words", "Upper", "a-b"):
        with pytest.raises(ValidationError, match=f"'{name}' is no name for a rule"):
            TextConfig(own_rules={name: path})
    with pytest.raises(ValidationError, match="unknown rule 'shouting'"):
        TextConfig.model_validate({"rules": {"en": {"shouting": [None, 1]}}})


@pytest.mark.parametrize(
    ("language", "addition"),
    [
        ("zh", "县里的公司也愿意提供技术支持，大家都很高兴。"),  # one stock phrase
        ("zh", "他问：“真的吗？”，她点点头，说：“是的”，就走了。。，"),  # two slips
        ("en", "The letter says, in its privacy policy , that nobody may read it"),
        (
            "en",
            "- flour of wheat\n- a bag for oats\n- salt\n- two brooms\n- rope, new\n- the ledger\n- candles\n- oil",
        ),
    ],
)
def test_one_phrase_or_slip_condemns_no_article(language: str, addition: str) -> None:
    assert verdict(f"{TEXTS[language]}\n{addition}", language) is None


def test_what_counts_is_how_much_of_a_text_is_boilerplate_or_finished() -> None:
    def score(rule: str, text: str) -> float:
        return float(score_batch([text], ["en"])[rule][0])

    paragraph = EN.replace("\n", " ")
    assert score("terminal_punctuation_ratio", paragraph + " and so on") > 0.95  # one line, and its end is missing
    assert score("terminal_punctuation_ratio", "\n".join(["a list item of words"] * 100) + f"\n{paragraph}") > 0.1
    assert score("boilerplate_ratio", paragraph + " All rights reserved.") < 0.05
    assert score("boilerplate_ratio", "Copyright 2019 Acme Ltd. All rights reserved.\nPrivacy policy") == 1.0
