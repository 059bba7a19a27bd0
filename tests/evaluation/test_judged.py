"""Judged benchmarks through the real OpenCompass, judges whose verdicts are rules: the table says what they say."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.evaluator import Judge as JudgeAt
from actors.evaluator import ModelUnderTest, plan_sets, run_sets
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.evaluation.data import write_data
from ilm_ray.evaluation.suites import BENCHMARKS, with_settings
from ilm_ray.evaluation.tables import benchmark_row, per_cent
from ilm_ray.evaluation.verdicts import FIRST, SECOND, TIE, both_orders
from jobs.benchmarks import STAGE
from tests.evaluation.judging import OURS, THEIRS, Judge, Model, arena, first, longer, verdict, write_suite
from tests.evaluation.known import Served

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 900.0
SECRET = "not-in-any-file"


WINNERS = st.lists(st.tuples(*[st.sampled_from(["ours", "theirs", "tie", "?"])] * 2), max_size=9)


@given(WINNERS)
def test_a_pair_is_the_same_where_both_orders_name_one_winner(named: list[tuple[str, str]]) -> None:
    """Winners by name, where the code knows positions alone."""
    shown = {"ours": FIRST, "theirs": SECOND, "tie": TIE, "?": None}
    swapped = {"ours": SECOND, "theirs": FIRST, "tie": TIE, "?": None}
    verdicts = [shown[a] for a, _ in named] + [swapped[b] for _, b in named]
    read = [(a, b) for a, b in named if "?" not in (a, b)]
    assert both_orders(verdicts) == {"pairs": len(read), "same": sum(a == b for a, b in read)}


def test_verdicts_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 verdicts"):
        both_orders([TIE, TIE, TIE])


def test_without_a_judge_the_row_names_the_setting_and_with_one_it_lacks_nothing() -> None:
    judged = [b for b in BENCHMARKS if b.judged]
    assert {b.name for b in judged} == {"AlpacaEval", "MT-Bench", "CompassArena", "AlignBench"}
    for benchmark in with_settings(judged, judge=False, haystack=True):
        row = benchmark_row(benchmark, {}, {}, {})
        assert row["state"] == "lacking" and "benchmarks.judge " in row["why"] and "benchmarks.judge_name" in row["why"]
    assert not [b for b in with_settings(judged, judge=True, haystack=False) if b.lacks]


def test_ratings_are_out_of_ten_and_sets_count_by_their_verdicts() -> None:
    benchmark = next(b for b in BENCHMARKS if b.name == "MT-Bench")
    judged = {"by": "j", "verdicts": 0, "unread": 0, "ties": 0, "pairs": 0, "same": 0, "cut": 0}
    sets = {"a": [4.0] * 3, "b": [9.0]}
    results = {
        name: {"score": sum(s) / len(s), "metric": "mean rating", "of": 10, "weight": float(len(s)), "cut": 0}
        | {"examples": len(s), "seconds": 0.0, "judged": judged}
        for name, s in sets.items()
    }
    row = benchmark_row(benchmark, dict.fromkeys(sets, 1.0), {}, results)
    assert row["score"] == pytest.approx((4 * 3 + 9) / 4) and per_cent(row) == pytest.approx(52.5)


def _run(
    python: Path, root: Path, folder: Path, judge: Judge, names: Sequence[str], examples: int | None = None
) -> dict[str, dict[str, Any]]:
    """Rows of the table by benchmark, of the whole chain less the job."""
    benchmarks = [b for b in BENCHMARKS if b.name in names]
    with Served(Model()) as model, Served(judge) as judging:
        target = ModelUnderTest(model.url, "model", None, 65_536, str(root), str(folder), examples, request_s=60.0)
        target = ModelUnderTest(**vars(target) | {"judge": JudgeAt(judging.url, "stand-in")})
        sets = plan_sets(benchmarks, target, python, DEADLINE_S)
        present = [work for work in sets if not work.missing]
        run_sets(present, target, python, 1, DEADLINE_S)
    rows = {}
    for b in benchmarks:
        results = {
            work.name: json.loads((folder / "results" / work.file).read_text())
            for work in present
            if work.benchmark == b
        }
        missing = {work.name: work.missing for work in sets if work.missing and work.benchmark == b}
        weights = {work.name: work.weight for work in sets if work.benchmark == b}
        rows[b.name] = benchmark_row(b, weights, missing, results, examples is not None)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_longer_answer_wins_as_often_as_it_is_longer(local_ray: None, python: Path, tmp_path: Path) -> None:
    write_suite(tmp_path)
    row = _run(python, tmp_path, tmp_path / "out", Judge(longer), ["AlpacaEval"])["AlpacaEval"]
    decided = [(a, b) for a, b in zip(OURS, THEIRS, strict=True) if a != b]
    assert row["score"] == pytest.approx(100 * sum(a > b for a, b in decided) / len(decided), abs=0.01)
    judged = row["judged"]
    counts = 2 * len(OURS), 2 * (len(OURS) - len(decided))
    assert (judged["by"], judged["verdicts"], judged["unread"]) == ("stand-in", *counts)
    assert (judged["pairs"], judged["consistency"]) == (len(decided), 100.0)

    def silent(kind: str, answers: list[str]) -> str:
        raise AssertionError("judged again")

    (tmp_path / "out/results/AlpacaEval.chat/alpaca_eval.json").unlink()  # as after a kill: only the figure is missing
    again = _run(python, tmp_path, tmp_path / "out", Judge(silent), ["AlpacaEval"])["AlpacaEval"]
    assert (again["score"], again["judged"]) == (row["score"], judged)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_judged_benchmark_says_what_the_rule_says(local_ray: None, python: Path, tmp_path: Path) -> None:
    write_suite(tmp_path)
    names = ["AlpacaEval", "CompassArena", "AlignBench"]
    rows = _run(python, tmp_path, tmp_path / "longer", Judge(longer), names)
    wins = [[OURS[n] > THEIRS[n] for n in arena(number)] for number in range(5)]  # a tie counts for neither
    assert rows["CompassArena"]["score"] == pytest.approx(sum(100 * sum(w) / len(w) for w in wins) / 5, abs=0.01)
    ties = sum(OURS[n] == THEIRS[n] for number in range(5) for n in arena(number))
    assert rows["CompassArena"]["judged"]["ties"] == 2 * ties > 0
    assert rows["CompassArena"]["judged"]["consistency"] == 100.0
    points = [OURS[n % 5] for n in range(8)]  # two categories of reasoning, six of language
    assert rows["AlignBench"]["score"] == pytest.approx((sum(points[:2]) / 2 + sum(points[2:]) / 6) / 2, abs=0.02)
    assert rows["AlignBench"]["of"] == 10 and rows["AlignBench"]["judged"]["consistency"] is None

    rows = _run(python, tmp_path, tmp_path / "first", Judge(first), names)
    for name in ("AlpacaEval", "CompassArena"):
        assert (rows[name]["score"], rows[name]["judged"]["consistency"]) == (50.0, 0.0)
    assert rows["AlignBench"]["score"] == 5.0

    rows = _run(python, tmp_path, tmp_path / "part", Judge(longer), names, 3)
    wins = [OURS[n] > THEIRS[n] for n in range(3)]
    assert rows["AlpacaEval"]["score"] == pytest.approx(100 * sum(wins) / 3, abs=0.01)
    assert rows["CompassArena"]["judged"]["verdicts"] == 5 * 2 * 3
    assert (rows["AlignBench"]["score"], rows["AlignBench"]["state"]) == (
        pytest.approx(sum(OURS[:3]) / 3, abs=1e-3),
        "sample",
    )
    assert "not every category" in rows["AlignBench"]["metric"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_verdicts_that_cannot_be_read_are_counted_and_in_no_figure(
    local_ray: None, python: Path, shared_data: Path, tmp_path: Path
) -> None:
    """The first few of MT-Bench's published questions; every rating is of the second answer, as OpenCompass asks."""
    write_data(shared_data / "eval", tmp_path)
    given: list[int | None] = []
    lock = threading.Lock()

    def rule(kind: str, answers: list[str]) -> str:
        with lock:
            points, silent = len(given) % 4 * 3 + 2, len(given) % 5 == 4  # 2, 5, 8, 11 of ten
            given.append(None if silent or points > 10 else points)
        return "Rating: [[.]]" if silent else f"Rating: [[{points}]]"

    row = _run(python, tmp_path, tmp_path / "out", Judge(rule), ["MT-Bench"], 5)["MT-Bench"]
    read = [points for points in given if points is not None]
    assert (row["examples"], row["state"], len(given)) == (15, "sample", 15)
    assert row["score"] == pytest.approx(sum(read) / len(read), abs=0.01)  # theirs is rounded for each set
    assert (row["judged"]["verdicts"], row["judged"]["unread"]) == (15, 15 - len(read))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_judge_that_says_nothing_readable_fails_the_set_by_name(
    local_ray: None, python: Path, tmp_path: Path
) -> None:
    write_suite(tmp_path)
    with pytest.raises(Exception, match=r"AlpacaEval.*none of 12 verdicts.*no idea"):
        _run(python, tmp_path, tmp_path / "out", Judge(lambda kind, answers: "no idea"), ["AlpacaEval"])


def _job(run: Path, root: Path, model: str, judge: str) -> list[str]:
    settings = (f"model={model}", f"data={root}", "context=65536", "suite=alignment", f"judge={judge}")
    job = [sys.executable, "jobs/benchmarks.py", "--run-dir", str(run), *(f"benchmarks.{s}" for s in settings)]
    return [*job, "benchmarks.judge_name=stand-in", "benchmarks.judge_key_env=ILM_TEST_KEY"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_job_writes_the_table_and_the_report_and_no_key(python: Path, tmp_path: Path) -> None:
    write_suite(tmp_path / "root")
    run = tmp_path / "run"
    with Served(Model()) as model, Served(Judge(lambda kind, a: first(kind, a))) as judge:
        command = _job(run, tmp_path / "root", model.url, judge.url)
        env = os.environ | {"ILM_TEST_KEY": SECRET}
        subprocess.run(command, cwd=REPOSITORY, env=env, check=True, timeout=DEADLINE_S)
        assert judge.keys == {f"Bearer {SECRET}"} and model.keys == {None}
    rows = {row["benchmark"]: row for row in json.loads((run / "benchmarks/benchmarks.json").read_text())["rows"]}
    assert rows["AlpacaEval"]["score"] == 50.0 and rows["MT-Bench"]["state"] == "absent"
    subprocess.run([sys.executable, "jobs/report.py", "--run-dir", str(run)], cwd=REPOSITORY, check=True, timeout=300)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "0.0 % of 6 pairs the same in both orders" in report and "5 of 10" in report
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        (["judge=http://me:secret@127.0.0.1:9", "judge_name=j"], "a key goes into an environment variable"),
        (["judge=127.0.0.1:9", "judge_name=j"], "such as http://host:8000"),
        (["judge=http://127.0.0.1:9"], "benchmarks.judge_name is not set"),
        (["judge=http://127.0.0.1:9", "judge_name=j", "judge_key_env=ILM_NO_KEY"], "no such environment variable"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_at_once(python: Path, settings: list[str], refusal: str) -> None:
    config = load_config("nano", None, [f"benchmarks.{setting}" for setting in settings])
    with pytest.raises(UserError, match=refusal) as refused:
        STAGE.sources(config)
    assert "secret" not in str(refused.value)


def test_rules_of_the_stand_in_judges() -> None:
    """The judges of these tests read the prompts' answers in the order in which they are shown."""
    prompt = '{\n "output": "a b c"\n },\n {\n "output": "a b"\n }'
    assert Judge(longer).answer(prompt) == verdict("alpaca", 1) == "m"
