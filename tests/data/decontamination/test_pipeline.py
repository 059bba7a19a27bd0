"""The stage on Ray: what it writes from kept files, again and after a crash, however the files are cut."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from demo.benchmark_items import CHINESE, LEAKED, LEAKED_CHINESE, PROBLEMS
from demo.sentences import writer
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.decontamination.words import split_words
from ilm_ray.report.report import write_report
from ilm_ray.run.journal import Journal
from ilm_ray.run.manifest import NAME, Manifest, commit, digest, load
from ilm_ray.run.stage import IN_PROGRESS, run_stage
from jobs.decontaminate import STAGE

LEAKS = {7: LEAKED[0], 20: LEAKED[1], 33: LEAKED_CHINESE, 41: f"{LEAKED[1]}\n{LEAKED_CHINESE}"}
CODE_LEAK = f"# {PROBLEMS[4][0]}"


def document(number: int) -> dict[str, Any]:
    language = "zh" if number % 3 == 0 else "en"
    paragraphs = list(writer(random.Random(number), language).article(5, 7).paragraphs)
    text = "\n".join([*paragraphs[:3], LEAKS.get(number, ""), *paragraphs[3:]])
    return {"id": number, "url": f"https://made.example/{number}", "dump": "d", "language": language, "text": text}


def run_dir(folder: Path, files: int) -> Path:
    """A run whose text stage kept 50 documents in so many files, and whose code stage kept two."""
    for number in range(files):
        rows = [document(n) for n in range(50) if n * files // 50 == number]
        write_jsonl(folder / "text" / "final" / f"kept-{number:05d}.jsonl.zst", rows)
    code = [
        {"id": 1, "url": "repo#0", "dump": "code", "language": "code", "text": "def f():\n    return 1\n"},
        {"id": 2, "url": "repo#1", "dump": "code", "language": "code", "text": f"{CODE_LEAK}\nprint(9)\n"},
    ]
    write_jsonl(folder / "code" / "kept-00000.jsonl.zst", code)
    for stage in ("text", "code"):
        commit(folder / stage, Manifest(stage, {}, {}))
    return folder


def run(folder: Path, *settings: str) -> dict[str, Any]:
    run_stage(STAGE, load_config("nano", None, list(settings)), folder, Journal(folder / "journal.jsonl"))
    manifest = load(folder / "decontamination")
    assert manifest is not None
    return {"files": manifest.files, **manifest.metrics}


def rows(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [
        row | {"id": int(row["id"])}
        for path in sorted((folder / "decontamination").glob(f"removed-{stage}-*.jsonl.zst"))
        for row in read_jsonl(path)
    ]


def test_planted_documents_are_listed_with_their_items(local_ray: None, tmp_path: Path) -> None:
    folder = run_dir(tmp_path, 3)
    figures = run(folder)
    listing = rows(folder, "text")
    assert {row["id"] for row in listing} == LEAKS.keys()
    assert [row["id"] for row in listing].count(41) == 2  # one row an item
    assert {row["id"] for row in rows(folder, "code")} == {2}
    first = next(row for row in listing if row["id"] == 7)
    assert (first["stage"], first["url"]) == ("text", "https://made.example/7")
    assert (first["benchmark"], first["item"], first["share"]) == ("word_problems.jsonl", "0", 1.0)
    assert first["passage"] == PROBLEMS[0][0].rstrip("?") and first["item_text"].startswith(PROBLEMS[0][0])
    edited = next(row for row in listing if row["id"] == 20)
    assert edited["item"] == "2" and 0.8 <= edited["share"] < 1
    chinese = next(row for row in listing if row["id"] == 33)
    assert chinese["benchmark"] == "chinese_questions.csv" and chinese["item_text"].startswith(CHINESE[1][0])
    assert figures["summary"] == {
        "benchmarks": 3, "items": 20, "items_sought": 20, "items_found": 4, "documents": 52, "documents_removed": 5,
        "removed_code": 1, "removed_text": 4,
    }  # fmt: skip
    with (folder / "decontamination" / "removed.csv").open(newline="", encoding="utf-8") as sheet:
        assert len(list(csv.DictReader(sheet))) == 6
    assert "reads 18 pages of a travel book before breakfast and twice as many after dinner" in write_report(
        folder
    ).read_text(encoding="utf-8")


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(local_ray: None, tmp_path: Path) -> None:
    folder = run_dir(tmp_path, 3)
    whole = run(folder)
    done = folder / "decontamination"
    manifest = load(done)
    assert manifest is not None
    (done / IN_PROGRESS).write_text(digest([manifest.settings, manifest.inputs]))
    (done / NAME).unlink()
    (done / "receipts" / "text-00001.json").unlink()
    (done / "removed-text-00001.jsonl.zst").unlink()
    kept = (done / "removed-text-00002.jsonl.zst").stat().st_mtime_ns
    assert run(folder) == whole
    assert (done / "removed-text-00002.jsonl.zst").stat().st_mtime_ns == kept


def test_documents_found_do_not_depend_on_how_files_are_cut(local_ray: None, tmp_path: Path) -> None:
    whole, cut = run_dir(tmp_path / "one", 1), run_dir(tmp_path / "many", 7)
    run(whole)
    run(cut)
    assert rows(whole, "text") == rows(cut, "text")


def test_common_phrases_do_not_count_but_an_item_that_leaked_often_does(local_ray: None, tmp_path: Path) -> None:
    shared = " ".join(PROBLEMS[3][0].split()[:20])  # half of an item
    for number in range(20):
        more = LEAKED[0] if number < 14 else ""
        row = document(number + 100) | {"text": f"{document(number + 100)['text']}\n{shared}\n{more}"}
        write_jsonl(tmp_path / "text/final" / f"kept-{number:05d}.jsonl.zst", [row])
    write_jsonl(tmp_path / "code" / "kept-00000.jsonl.zst", [])
    for stage in ("text", "code"):
        commit(tmp_path / stage, Manifest(stage, {}, {}))
    figures = run(tmp_path)
    assert len(split_words([shared]).hashes) - 3 == figures["false_alarm_guard"]["common_runs"]
    assert [row["id"] for row in rows(tmp_path, "text")] == list(range(100, 114))


@pytest.mark.parametrize("benchmarks", ["[]", "null"])
def test_nothing_is_removed_where_nothing_is_looked_for(benchmarks: str, tmp_path: Path) -> None:
    folder = run_dir(tmp_path, 1)
    figures = run(folder, f"decontamination.benchmarks={benchmarks}")
    assert figures["summary"]["items"] == figures["summary"]["documents_removed"] == 0
    assert figures["off"] == {"decontamination.benchmarks": "no benchmark named"} and figures["files"] == {}
    assert rows(folder, "text") == [] and "Decontamination" in write_report(folder).read_text(encoding="utf-8")


def test_a_wrong_benchmark_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"completion": "x"}\n')
    config = load_config("nano", None, [f"decontamination.benchmarks=['{tmp_path}/odd.jsonl']"])
    with pytest.raises(UserError, match=r"decontamination\.benchmarks: the form of .*odd\.jsonl is unknown"):
        STAGE.sources(config)
