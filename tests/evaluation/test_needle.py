"""Needle in a haystack: prompts against plain counting, whole grids through endpoints known to find or to miss."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.evaluation.needle import NEEDLES, Haystack, chosen, default_lengths, depths, score, sentences
from ilm_ray.evaluation.needle_run import Grid, NeedleError, ServedModel, counter, read_haystacks, run_needles
from jobs.benchmarks import STAGE
from tests.evaluation.known import Served

REPOSITORY = Path(__file__).parents[2]
ALL = [needle for needles in NEEDLES.values() for needle in needles]
ENGLISH = "".join(f"Line {n} of the long tale tells of {n * 7} sheep and a dog. " for n in range(40))
CHINESE = "".join(f"第{n}天，他在山里走了很远的路，看见了河。" for n in range(40))


class Reader:
    """Answers with the needle's sentence where it stands in what it sees: the first `share` of the prompt."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def answer(self, prompt: str) -> str:
        seen = prompt[: int(len(prompt) * self.share)]
        return next((needle.text for needle in ALL if needle.text in seen), "I do not know.")


def words(text: str) -> int:
    return len(text.split())


@given(st.text("aé中. !?。！\n”", max_size=80))
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_a_sentence_ends_with_its_mark_its_quotes_and_its_spaces() -> None:
    assert sentences("One. “Two!” 3.5 is\nthree?\n\nFour") == ["One. ", "“Two!” ", "3.5 is\nthree?\n\n", "Four"]
    assert sentences("一。“二！”三，四？") == ["一。", "“二！”", "三，四？"]


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
    st.integers(120, 900),
    st.floats(0, 1),
    st.integers(0, len(NEEDLES["en"]) - 1),
)
def test_a_prompt_is_as_long_and_its_needle_as_deep_as_asked_to_within_a_sentence(
    lengths: list[int], tokens: int, depth: float, which: int
) -> None:
    """Counted in words, where sentences are unlike each other; repeated where the prompt wants more than there are."""
    text = "".join("w " * (n - 1) + f"w{i}. " for i, n in enumerate(lengths))
    needle, longest = NEEDLES["en"][which], max(lengths)
    made = Haystack(text, words).prompt(needle, tokens, depth)
    assert made.tokens == words(made.text) and tokens - longest <= made.tokens <= tokens
    before, hidden, after = made.text.partition(needle.text)
    assert hidden and needle.text not in after
    _, hay = before.split("\n\n", 1)
    assert hay == "" or hay.rstrip().endswith(".")  # at a border of sentences
    rest = after.rsplit("\n\n", 1)[0]
    total = words(hay) + words(rest)
    assert abs(words(hay) - depth * total) <= longest
    assert made.at == pytest.approx(words(hay) / total if total else 0.0)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_with_a_real_tokenizer_one_sentence_more_would_be_too_much(text: str, tmp_path: Path) -> None:
    """Its count of a whole is not the sum over the parts."""
    Tokenizer(first_tokens(cl100k()[0], 900), 1024).save_huggingface(tmp_path)
    count = counter(str(tmp_path))
    hay = Haystack(text, count)
    longest = max(map(count, hay.parts))
    for tokens, depth, needle in product((700, 5000), (0.0, 0.37, 1.0), NEEDLES[hay.language][:2]):
        made = hay.prompt(needle, tokens, depth)
        assert count(made.text) == made.tokens and tokens - longest - 2 <= made.tokens <= tokens
        assert abs(made.at - depth) * tokens <= longest


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into 20"):
        Haystack(ENGLISH, words).prompt(NEEDLES["en"][0], 20, 0.5)


def test_a_needle_is_answered_by_its_own_sentence_alone() -> None:
    for needle, other in product(ALL, ALL):
        known = score(other.text, needle)
        assert known == 1.0 if needle == other else known < 1.0
    assert score("ｔｈｅ  Green\nLAMP", NEEDLES["en"][2]) == 0.5  # one of two facts, whatever case and width


def test_needles_of_a_cell_are_unlike_and_the_same_again() -> None:
    first = chosen("en", 4096, 3, len(NEEDLES["en"]), 7)
    assert sorted(first) == list(range(len(NEEDLES["en"]))) and first == chosen("en", 4096, 3, len(first), 7)
    assert len({tuple(chosen("en", 4096, depth, 3, 7)) for depth in range(11)}) > 3


def test_lengths_are_powers_of_two_up_to_the_context() -> None:
    assert default_lengths(8192) == [1024, 2048, 4096, 8192]
    assert default_lengths(200_000)[-2:] == [131_072, 200_000] and default_lengths(512) == [512]
    assert depths(5) == [0.0, 0.25, 0.5, 0.75, 1.0] and depths(1) == [0.5]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "tale.txt").write_text(ENGLISH)
    (folder / "山.txt").write_text(CHINESE)
    return read_haystacks(folder)


GRID = Grid([512, 1024, 3000], 4, 2, 1)


def _served(served: Served) -> ServedModel:
    return ServedModel(served.url, "model", None, 60.0)


def _scores(folder: Path, language: str) -> list[list[float]]:
    return json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))["grid"]["scores"]


@pytest.mark.long
def test_who_reads_all_finds_all_and_who_reads_half_finds_that_half(texts: dict[str, str], tmp_path: Path) -> None:
    with Served(Reader()) as oracle:
        run_needles(texts, GRID, _served(oracle), tmp_path / "cells", tmp_path / "all")
        assert oracle.requests == 2 * 3 * 4 * 2
    with Served(Reader(0.5)) as half:
        run_needles(texts, GRID, _served(half), tmp_path / "other", tmp_path / "half")
    for language in texts:
        assert _scores(tmp_path / "all", language) == [[100.0] * 3] * 4
        # Depths of 0 and a third stand in the first half of every prompt, two thirds and 1 in the second.
        assert _scores(tmp_path / "half", language) == [[100.0] * 3] * 2 + [[0.0] * 3] * 2


@pytest.mark.long
def test_cells_already_answered_are_not_asked_again(texts: dict[str, str], tmp_path: Path) -> None:
    with Served(Reader()) as oracle:
        run_needles(texts, GRID, _served(oracle), tmp_path / "cells", tmp_path / "all")
        whole, requests = _scores(tmp_path / "all", "zh"), oracle.requests
        (tmp_path / "cells/zh/1024-2.json").unlink()
        run_needles(texts, GRID, _served(oracle), tmp_path / "cells", tmp_path / "all")
        assert oracle.requests == requests + GRID.trials and _scores(tmp_path / "all", "zh") == whole


@pytest.mark.long
def test_an_endpoint_that_is_not_there_is_named_and_nothing_is_scored(
    texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ilm_ray.base.http.PAUSE_S", 0.01)
    nobody = ServedModel("http://127.0.0.1:9", "model", None, 5.0)
    with pytest.raises(NeedleError, match="did not answer"):
        run_needles(texts, Grid([512], 1, 1, 1), nobody, tmp_path / "cells", tmp_path / "all")
    assert not (tmp_path / "all").exists() or not list((tmp_path / "all").iterdir())


def test_texts_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match="holds no text"):
        read_haystacks(tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*bytes\.txt"):
        read_haystacks(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("python")
def test_the_job_draws_the_map(tmp_path: Path) -> None:
    (tmp_path / "root" / "data").mkdir(parents=True)
    (tmp_path / "tale.txt").write_text(ENGLISH)
    run = tmp_path / "run"
    with Served(Reader(0.5)) as half:
        given_settings = (f"model={half.url}", f"data={tmp_path / 'root'}", "suite=long", "context=4096")
        given_settings += (f"haystack={tmp_path / 'tale.txt'}", "needle_depths=4")
        job = [
            sys.executable,
            "jobs/benchmarks.py",
            "--run-dir",
            str(run),
            *(f"benchmarks.{s}" for s in given_settings),
        ]
        subprocess.run(job, cwd=REPOSITORY, env=os.environ, check=True, timeout=900)
        refused = subprocess.run(
            [*job, "benchmarks.needle_lengths=[8192]"], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
        )
    assert refused.returncode == 2 and "the context of 4096" in refused.stdout
    rows = {row["benchmark"]: row for row in json.loads((run / "benchmarks/benchmarks.json").read_text())["rows"]}
    assert rows["Needle-in-a-Haystack"]["score"] == 50.0 and rows["LongBench"]["state"] == "absent"
    subprocess.run([sys.executable, "jobs/report.py", "--run-dir", str(run)], cwd=REPOSITORY, check=True, timeout=300)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "<title>4,096, 0 %: 100 %</title>" in report and "<title>1,024, 100 %: 0 %</title>" in report


def test_without_a_haystack_the_row_names_the_setting(tmp_path: Path) -> None:
    from ilm_ray.evaluation.suites import suite, with_settings
    from ilm_ray.evaluation.tables import benchmark_row

    (needle,) = [b for b in with_settings(suite("long"), judge=False, haystack=False) if b.native]
    assert "benchmarks.haystack" in benchmark_row(needle, {}, {}, {})["why"]


@pytest.mark.usefixtures("python")
def test_lengths_beyond_the_context_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words_of = [f"data={tmp_path}", "suite=long", "context=4096", f"haystack={tmp_path}", "needle_lengths=[8192]"]
    with pytest.raises(UserError, match=r"needle_lengths.*the context of 4096"):
        STAGE.sources(load_config("nano", None, [f"benchmarks.{word}" for word in words_of]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("431", 1.0),
        ("He counted 431 steps.", 1.0),
        ("431, he said", 1.0),
        ("four hundred and thirty-one", 1.0),
        ("14310", 0.0),
        ("4317 steps", 0.0),
        ("1,431 steps", 0.0),
        ("431.5", 0.0),
        ("0.431", 0.0),
        ("４３１ steps", 1.0),
    ],
)
def test_a_number_counts_as_a_whole(answer: str, expected: float) -> None:
    needle = next(n for n in NEEDLES["en"] if "431" in n.text)
    assert score(answer, needle) == expected


def test_every_needles_own_sentence_has_all_its_facts() -> None:
    for needles in NEEDLES.values():
        for needle in needles:
            assert score(needle.text, needle) == 1.0
            for forms in needle.wanted:
                assert all(score(f"{form}。", needle) > 0 for form in forms)
