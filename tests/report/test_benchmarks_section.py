"""The section of public benchmarks: parts are never drawn beside published figures, answers are inert."""

import json
import math
import re
from pathlib import Path

import pytest

from ilm_ray.evaluation.suites import BENCHMARKS, Benchmark
from ilm_ray.evaluation.tables import benchmark_row
from ilm_ray.report.charts.radar import radar_chart
from ilm_ray.report.sections.benchmarks import benchmarks_section

HOSTILE = "<script>alert(1)</script>\u202e"


def _of(key: str) -> Benchmark:
    return next(b for b in BENCHMARKS if b.key == key)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    result = {"score": 41.5, "metric": "score", "examples": 8, "cut": 1, "seconds": 2.0}
    sample = {"prompt": HOSTILE, "answer": HOSTILE, "gold": HOSTILE, "correct": None}
    sample |= {"turns": [{"role": role, "text": f"{role} {HOSTILE}"} for role in ("assistant", "environment")]}
    rows = [
        benchmark_row(_of("GSM8K.chat"), {"gsm8k": 1.0}, {}, {"gsm8k": result}),
        benchmark_row(_of("MMLU.chat"), {"a": 1.0, "b": 1.0}, {"b": ["/d/b.csv"]}, {"a": result | {"score": 25.0}}),
        benchmark_row(_of("C3.chat"), {"C3": 1.0}, {}, {"C3": result | {"score": 27.0}}),
        benchmark_row(_of("C-Eval.chat"), {"x": 1.0}, {"x": ["/d/<x>.csv"]}, {}),
    ]
    folder = tmp_path / "benchmarks"
    for row in rows:
        (folder / "results" / row["key"]).mkdir(parents=True)
        if row["score"] is not None:
            whole = result | {"samples": [sample]}
            (folder / "results" / row["key"] / "set.json").write_text(json.dumps(whole))
    document = {"model": HOSTILE, "suite": "chat", "examples": None, "rows": rows}
    (folder / "benchmarks.json").write_text(json.dumps(document))
    return tmp_path


def test_answers_are_inert_and_absent_data_has_no_figure(run: Path) -> None:
    made = benchmarks_section(run, {})
    assert "<script" not in made and "\u202e" not in made and "&lt;script&gt;" in made
    assert all(f"{role} &lt;script&gt;" in made for role in ("assistant", "environment"))
    assert "data absent: put it at /d/&lt;x&gt;.csv" in made
    line = re.search(r"<tr><t[dh][^>]*>C-Eval.*?</tr>", made, re.DOTALL)
    assert line is not None and not re.search(r">\d+\.\d+<", line[0])


def test_only_a_whole_benchmark_is_drawn_beside_what_is_published(run: Path) -> None:
    made = benchmarks_section(run, {})
    drawn = re.findall(r"<title>([^<]*)</title>", made)
    assert any(title.startswith("GSM8K (chat), InternLM2-Chat-7B: 70.7") for title in drawn)
    assert not [title for title in drawn if title.startswith("MMLU (chat), InternLM2")]
    assert any(title.startswith("MMLU (chat), this model: 25") for title in drawn)


def test_without_benchmarks_the_section_says_so(tmp_path: Path) -> None:
    assert "No public benchmark has been run." in benchmarks_section(tmp_path, {})


def test_a_radar_puts_each_value_at_its_share_of_the_axis() -> None:
    values = [100.0, 50.0, 0.0, 25.0]
    made = radar_chart("t", ["north", "east", "south", "west"], values, 100.0, width=400)
    points = [tuple(map(float, place)) for place in re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', made)]
    reach = [math.dist(point, (200, 200)) for point in points]
    assert reach == pytest.approx([reach[0] * value / 100 for value in values], abs=0.2)
    directions = [(0, -1), (1, 0), None, (-1, 0)]
    for point, far, way in zip(points, reach, directions, strict=True):
        if way is not None:
            assert point == pytest.approx((200 + far * way[0], 200 + far * way[1]), abs=0.2)
