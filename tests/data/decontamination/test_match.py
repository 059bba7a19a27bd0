"""Matching: against the rule as plain Python, on edited items, on what must not be found."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.edits import KINDS
from benchmarks.plain_matches import plain_runs, plain_share, plain_words
from demo import DATA
from demo.benchmark_items import CHINESE, PROBLEMS
from demo.sentences import writer
from ilm_ray.data.decontamination.index import MAX_ITEMS, ItemIndex, build_index, load_index, save_index
from ilm_ray.data.decontamination.items import Item, find_benchmarks, read_benchmarks
from ilm_ray.data.decontamination.match import find_passages
from ilm_ray.data.decontamination.words import runs_of, split_words

NGRAM, SHARE = 4, 0.8
NOTHING = np.empty(0, np.uint64)
# Few words, so that chance alone makes many part matches; both scripts, choices with labels, wide letters.
WORDS = st.sampled_from(
    ["red", "fox", "ran", "Over", "the", "７", "12", "a)", "B.", "c", "\n", "木", "匠", "做", "豆", "腐", "Ｘｙ"]
)
TEXTS = st.lists(WORDS, max_size=40).map(" ".join)


def question(text: str) -> Item:
    return Item("made.jsonl", "0", text, "", "", "")


def items_found(texts: list[str], index: ItemIndex) -> list[tuple[int, int]]:
    matches = find_passages(texts, index.table, NGRAM, SHARE)
    return sorted({(match.text, int(index.item_of[match.passage])) for match in matches})


@given(TEXTS)
def test_words_are_those_of_the_plain_rule(text: str) -> None:
    words = split_words([text, "", text])
    spans = zip(words.starts.tolist(), words.ends.tolist(), strict=True)
    shown = [plain_words(f" {text[a:b]}") for a, b in spans]
    assert [w for part in shown for w in part] == 2 * plain_words(text)
    assert words.borders.tolist() == [0, len(plain_words(text)), len(plain_words(text)), 2 * len(plain_words(text))]


@settings(max_examples=300)
@given(
    st.lists(TEXTS, min_size=1, max_size=4), st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from([0.3, 0.6, 0.8])
)
def test_shares_are_those_of_the_plain_rule(documents: list[str], questions: list[str], share: float) -> None:
    index = build_index([question(text) for text in questions], NGRAM, NOTHING)
    shares = {
        (m.text, int(index.item_of[m.passage])): m.share for m in find_passages(documents, index.table, NGRAM, share)
    }
    expected = {}
    for item in index.sought().tolist():
        for text, document in enumerate(documents):
            value = plain_share(document, questions[item], set(), NGRAM, share)
            if value >= share:
                expected[text, item] = pytest.approx(value)
    assert shares == expected


@given(st.lists(TEXTS, max_size=8), st.integers(0, 8))
def test_a_batch_finds_what_its_halves_find(documents: list[str], cut: int) -> None:
    index = build_index(
        [question("red fox ran over the 木匠做豆腐 12"), question("the fox 做豆腐木匠 ran red over")], 2, NOTHING
    )
    whole = find_passages(documents, index.table, 2, 0.5)
    halves = find_passages(documents[:cut], index.table, 2, 0.5)
    halves += [
        m._replace(text=m.text + min(cut, len(documents))) for m in find_passages(documents[cut:], index.table, 2, 0.5)
    ]
    assert whole == halves


@pytest.fixture(scope="module")
def demo_index() -> ItemIndex:
    return build_index(read_benchmarks(find_benchmarks([str(DATA / "benchmarks" / "*")])), NGRAM, NOTHING)


def host(seed: int, language: str) -> str:
    return "\n".join(writer(random.Random(seed), language).article(6, 8).paragraphs)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_items_are_found_however_lightly_edited(demo_index: ItemIndex, kind: str) -> None:
    rng = random.Random(f"planted {kind}")
    planted, expected = [], []
    for number, item in enumerate(demo_index.items):
        body = "\n".join([item.question, *(f"{'ABCD'[n]}. {c}" for n, c in enumerate(item.choices.split("\n")) if c)])
        edited = KINDS[kind](body, rng)
        if edited is not None:
            lines = host(number, "zh" if item.benchmark.startswith("chinese") else "en").split("\n")
            planted.append("\n".join([*lines[:3], edited, *lines[3:]]))
            expected.append((len(planted) - 1, number))
    pairs = items_found(planted, demo_index)
    assert set(pairs) <= set(expected)
    assert len(pairs) >= (1.0 if kind == "exact" else 0.9) * len(expected)


def test_clean_text_holds_nothing(demo_index: ItemIndex) -> None:
    texts = [host(seed, language) for seed in range(150) for language in ("en", "zh")]
    assert items_found(texts, demo_index) == []


def test_the_passage_is_where_the_item_stands(demo_index: ItemIndex) -> None:
    text = f"{host(1, 'en')}\n{PROBLEMS[0][0]}\n{host(2, 'en')}"
    (match,) = find_passages([text], demo_index.table, NGRAM, SHARE)
    assert text[match.start : match.end] == PROBLEMS[0][0].rstrip("?")
    assert match.share == 1.0


def test_a_solution_gives_its_item_away() -> None:
    solution = (
        "First add the seven small barrels that stood behind the mill. Then take away whatever leaked overnight, and "
        "divide the rest among the four carts that came from the harbour."
    )
    index = build_index([Item("made.jsonl", "0", "How much does each cart carry?", "", "", solution)], NGRAM, NOTHING)
    assert items_found([f"{host(3, 'en')}\n{solution}", host(3, "en")], index) == [(0, 0)]


def test_choices_without_labels(demo_index: ItemIndex) -> None:
    problem, *choices, _ = CHINESE[2]
    text = f"{host(4, 'zh')}\n{problem}？{' '.join(choices)}\n{host(5, 'zh')}"
    number = [i.question for i in demo_index.items].index(problem)
    assert items_found([text], demo_index) == [(0, number)]


def test_a_stretch_much_longer_than_the_item_is_no_match() -> None:
    words = [f"word{n}" for n in range(24)]
    index = build_index([question(" ".join(words))], NGRAM, NOTHING)
    filler = [f"other{n}" for n in range(20)]
    pieces = [words[n : n + 6] for n in range(0, 24, 6)]
    scattered = " ".join(" ".join(piece + filler) for piece in pieces)
    assert items_found([" ".join(words), scattered], index) == [(0, 0)]


def test_how_questions_are_asked_does_not_count() -> None:
    phrase = "Which of the following statements about this subject is not supported by the text above, if any"
    items = [question(f"{phrase}: {' '.join(f'w{n}x{k}' for k in range(16))}") for n in range(MAX_ITEMS + 1)]
    index = build_index(items, NGRAM, NOTHING)
    assert items_found([phrase, items[3].question, " ".join(f"w4x{k}" for k in range(16))], index) == [(1, 3), (2, 4)]
    assert len(build_index([question(phrase)] * (MAX_ITEMS + 1), NGRAM, NOTHING).sought()) == MAX_ITEMS + 1


def test_runs_common_among_documents_do_not_count() -> None:
    licence = "permission is hereby granted free of charge to any person obtaining a copy of this software"
    herons = "nine blue herons walked slowly over frozen paddies while the village children were still fast asleep"
    item = question(f"{licence} and {herons}")
    plain = build_index([item], NGRAM, NOTHING)
    common = np.sort(plain.table.keys[plain.table.places >= 0])
    guarded = build_index([item], NGRAM, np.intersect1d(common, runs_of(split_words([licence]), NGRAM).hashes))
    assert items_found([licence, item.question, herons], guarded) == [(1, 0), (2, 0)]
    assert items_found([herons], plain) == []  # without the guard the licence is half of the item


def test_what_is_too_short_or_all_numbers_is_not_sought() -> None:
    items = [question("Who are you?"), question(" ".join(str(n) for n in range(40))), question("他是谁")]
    assert build_index(items, NGRAM, NOTHING).sought().tolist() == []


def test_an_index_comes_back_from_its_folder(demo_index: ItemIndex, tmp_path: Path) -> None:
    save_index(tmp_path, demo_index)
    again = load_index(tmp_path)
    assert again.items == demo_index.items
    assert all(np.array_equal(a, b) for a, b in zip(again.table, demo_index.table, strict=True))
    assert items_found([PROBLEMS[1][0]], again) == items_found([PROBLEMS[1][0]], demo_index)


def test_real_benchmarks_in_real_text(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "eval/gsm8k/test.jsonl").open(encoding="utf-8")][:200]
    paths = find_benchmarks([str(shared_data / "eval/gsm8k/test.jsonl"), str(shared_data / "eval/mmlu/dev/*.csv")])
    index = build_index(read_benchmarks(paths), NGRAM, NOTHING)
    book = (shared_data / "text/books_en/3261.txt").read_text(encoding="cp1252").split("\n\n")
    clean = ["\n\n".join(book[n : n + 5]) for n in range(0, 1000, 5)]
    numbers = {item.question: number for number, item in enumerate(index.items)}
    planted = [f"{text}\n{row['question']}\n" for text, row in zip(clean, rows, strict=True)]
    assert items_found(planted, index) == [(n, numbers[row["question"]]) for n, row in enumerate(rows)]
    assert items_found(clean, index) == []


def test_plain_runs_take_two_characters_for_a_word() -> None:
    assert plain_runs(["木", "匠", "fox", "做"], 2) == {0: ("木", "匠", "fox"), 1: ("匠", "fox", "做")}
