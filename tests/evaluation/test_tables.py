"""Rows of the tables: weighted means against brute force, and never a score for data that is not there."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.published import FIGURES, MODELS, published
from ilm_ray.evaluation.suites import AREAS, BENCHMARKS, SMOKE, Benchmark, suite
from ilm_ray.evaluation.tables import area_means, benchmark_row

ONE = Benchmark("Some", AREAS[0], "base", "some.some_ppl", "ppl", 5, ("data/some/{name}.csv",))


def _result(score: float, examples: int = 10) -> dict[str, object]:
    return {"score": score, "metric": "accuracy", "examples": examples, "cut": 0, "seconds": 1.5}


@given(st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 10), st.integers(1, 9)), min_size=1, max_size=8))
def test_a_score_is_the_mean_over_sets_each_as_often_as_its_weight_says(rows: list[tuple[float, int, int]]) -> None:
    copies = [score for score, _, weight in rows for _ in range(weight)]
    weights = {str(i): float(weight) for i, (_, _, weight) in enumerate(rows)}
    row = benchmark_row(ONE, weights, {}, {str(i): _result(score) for i, (score, _, _) in enumerate(rows)})
    assert row["score"] == pytest.approx(sum(copies) / len(copies), abs=1e-4)
    assert (row["state"], row["examples"]) == ("done", 10 * len(rows))


def test_without_data_there_is_no_score_but_the_place_to_put_it() -> None:
    row = benchmark_row(ONE, {"a": 1.0, "b": 1.0}, {"a": ["/d/a.csv"], "b": ["/d/b.csv"]}, {})
    assert (row["score"], row["state"]) == (None, "absent")
    assert row["why"] == "data absent: put it at /d/a.csv (and 1 more)"


def test_a_part_of_the_sets_is_called_a_part() -> None:
    row = benchmark_row(ONE, {"a": 1.0, "b": 1.0}, {"b": ["/d/b.csv"]}, {"a": _result(40.0)})
    assert (row["score"], row["state"], row["sets_done"], row["sets"]) == (40.0, "partial", 1, 2)
    assert "/d/b.csv" in row["why"]


def test_what_a_node_lacks_is_named_and_no_score() -> None:
    lacks = {"lacks": "go is not installed on n: install it"}
    some = benchmark_row(ONE, {"a": 1.0, "b": 1.0}, {}, {"a": _result(40.0), "b": lacks})
    assert (some["score"], some["state"], some["sets_done"], some["why"]) == (40.0, "partial", 1, lacks["lacks"])
    none = benchmark_row(ONE, {"b": 1.0}, {}, {"b": lacks})
    assert (none["score"], none["state"]) == (None, "lacking") and lacks["lacks"] in none["why"]


def test_a_sample_is_called_one_and_a_part_stays_a_part() -> None:
    assert benchmark_row(ONE, {"a": 1.0}, {}, {"a": _result(40.0)}, sampled=True)["state"] == "sample"
    both = benchmark_row(ONE, {"a": 1.0, "b": 1.0}, {"b": ["/d/b.csv"]}, {"a": _result(40.0)}, sampled=True)
    assert both["state"] == "partial"


def test_what_lacks_more_than_data_says_what() -> None:
    lacking = next(b for b in BENCHMARKS if b.lacks)
    row = benchmark_row(lacking, {}, {}, {})
    assert (row["score"], row["state"]) == (None, "lacking") and lacking.lacks in row["why"]


def test_a_mean_of_an_area_counts_what_was_scored() -> None:
    rows = [{"area": "code", "score": 10.0}, {"area": "code", "score": None}, {"area": "code", "score": 20.0}]
    assert area_means([*rows, {"area": "tools", "score": None}]) == {"code": 15.0}


def test_suites_hold_what_the_report_evaluates() -> None:
    assert len({b.key for b in BENCHMARKS}) == len(BENCHMARKS)
    assert SMOKE.keys() <= {b.key for b in BENCHMARKS}
    parts = [suite(name) for name in ("base", "chat", "code", "long", "tools", "alignment")]
    assert {b.key for part in parts for b in part} == {b.key for b in suite("paper")}
    assert {b.kind for b in suite("base")} == {"base"}
    # Perplexity or likelihood wherever a base model chooses among given answers, generation wherever a chat model does.
    assert not [b.key for b in BENCHMARKS if b.kind == "chat" and b.mode != "gen"]
    with pytest.raises(UserError, match="none of smoke, base"):
        suite("everything")


def test_published_figures_are_of_the_asked_kind() -> None:
    assert {name for b in BENCHMARKS for name in published(b.name, b.kind)} == set(MODELS)
    assert set(FIGURES) <= {b.name for b in BENCHMARKS}
    assert all("Chat" not in model for model in published("MMLU", "base"))
    assert published("LongBench", "chat") == {}


def test_the_guide_names_every_benchmark_with_its_configuration() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8").splitlines()
    for b in BENCHMARKS:
        assert any(f"| {b.name} | {b.kind} |" in line and f"`{b.config}`" in line for line in guide), b.key
