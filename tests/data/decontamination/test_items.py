"""Benchmark files: every form of the real ones is read, anything else is refused in one line."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.edits import REAL
from ilm_ray.base.errors import UserError
from ilm_ray.data.decontamination.items import find_benchmarks, read_benchmarks


@pytest.mark.long
def test_every_item_of_the_real_benchmarks_is_read(shared_data: Path) -> None:
    items = read_benchmarks(find_benchmarks([str(shared_data / "eval" / pattern) for pattern in REAL]))
    counts = Counter(item.benchmark.split("/")[0] for item in items)
    rows = (shared_data / "eval/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    assert counts["gsm8k"] == len(rows) + 7473
    # As the data's own list has them; items of C3 and L-Eval are questions, of which a text has several.
    stated = {"agieval": 8269, "bbh": 6511, "humaneval": 164, "humaneval_x": 6 * 164, "mbpp_sanitized": 427}
    stated |= {"mmlu": 285 + 386 + 3586, "cmmlu": 335 + 3358, "nq_open": 3610, "theoremqa": 800, "mt_bench": 80}
    assert {name: counts[name] for name in stated} == stated
    assert counts["c3"] >= 1628 + 1046 and counts["leval"] >= 97
    assert all(item.question.strip() for item in items)


def test_parts_of_an_item(tmp_path: Path) -> None:
    (tmp_path / "maths.jsonl").write_text(json.dumps({"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"}))
    with (tmp_path / "exam.csv").open("w", newline="") as out:
        csv.writer(out).writerow(["Which, then?", "this", "that", "both", "none", "C"])
    code = {"prompt": "def f():", "canonical_solution": "return 1", "task_id": "HumanEval/7"}
    (tmp_path / "code.jsonl.gz").write_bytes(gzip.compress(json.dumps(code).encode()))
    nested = {"canary": "do not train", "examples": [{"input": "one", "target": "1"}, {"input": "two", "target": "2"}]}
    (tmp_path / "tasks.json").write_text(json.dumps(nested))
    code_item, exam, maths, first, second = read_benchmarks(find_benchmarks([str(tmp_path / "*")]))
    assert tuple(maths) == ("maths.jsonl", "0", "Two and two?", "", "", "2+2=4\n4")
    assert tuple(exam) == ("exam.csv", "0", "Which, then?", "this\nthat\nboth\nnone", "", "")
    assert tuple(code_item) == ("code.jsonl.gz", "HumanEval/7", "def f():", "", "return 1", "")
    assert [(item.name, item.question, item.answer) for item in (first, second)] == [
        ("0", "one", "1"),
        ("1", "two", "2"),
    ]


def test_choices_may_be_named(tmp_path: Path) -> None:
    with (tmp_path / "ceval.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["id", "question", *"ABCD", "answer"], [0, "Which?", "w", "x", "y", "z", "A"]])
    by_letter = {"question": "Which?", "options": {"A": "w", "B": "x"}, "answer": "A"}
    arc = {"question": "Which?", "choices": {"text": ["w", "x"], "label": ["A", "B"]}, "answerKey": "A"}
    (tmp_path / "other.jsonl").write_text(f"{json.dumps(by_letter)}\n{json.dumps(arc)}\n")
    items = read_benchmarks(find_benchmarks([str(tmp_path / "*")]))
    assert [item[2:] for item in items] == [("Which?", c, "", "") for c in ("w\nx\ny\nz", "w\nx", "w\nx\nA\nB")]


def test_a_line_of_a_file_ends_where_json_lines_do(tmp_path: Path) -> None:
    rows = [{"question": f"one\u2028two\x85three\x0cfour {n}", "answer": ""} for n in range(2)]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False).replace("\\f", "\\u000c") for row in rows)
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8", newline="")
    assert [item.question for item in read_benchmarks([tmp_path / "x.jsonl"])] == [row["question"] for row in rows]


def test_files_are_named_below_the_folder_they_share(tmp_path: Path) -> None:
    for name in ("a/x.jsonl", "b/x.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text('{"question": "Who?", "answer": "They."}\n')
    assert [item.benchmark for item in read_benchmarks(find_benchmarks([f"{tmp_path}/**/*.jsonl"]))] == [
        "a/x.jsonl",
        "b/x.jsonl",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'{"task_id": 1, "completion": "x"}'),
        ("x.jsonl", b""),
        ("x.jsonl", b"{"),
        ("x.jsonl", b'["not", "rows"]'),
        ("x.json", b"[" * 100_000),
        ("x.csv", b"a,b,c,d,e\n1,2,3,4,5\n"),
        ("x.csv", b"\xff\xfe\x00"),
        ("x.jsonl.gz", b"no gzip"),
        ("x.jsonl.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20),
        ("x.txt", b"text"),
    ],
)
def test_an_unknown_form_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_benchmarks(find_benchmarks([str(tmp_path / name)]))
    message = str(raised.value)
    assert message.startswith("decontamination.benchmarks: ") and str(tmp_path / name) in message
    assert "\n" not in message


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="matches no file"):
        find_benchmarks([str(tmp_path / "*.jsonl")])
