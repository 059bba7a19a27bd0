"""`make gpu`: a case that fails, hangs or dies costs no other, and every case has a row."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.cases import Where
from benchmarks.gpu.runner import OUT_OF_TIME, run_section

pytestmark = pytest.mark.process


def where(seconds: float) -> Where:
    return Where("cpu", tiny=True, ends_at=time.time() + seconds)


def test_no_case_costs_another(tmp_path: Path) -> None:
    rows = run_section("made", "tests.gpu.made_section", where(60), tmp_path)
    by_case = {row["case"]: row for row in rows}
    assert list(by_case) == ["plain", "absent", "elsewhere", "raises", "after it", "hangs", "dies", "last"]
    assert by_case["plain"]["value"] == 1 and by_case["after it"]["value"] == 2 and "value" in by_case["last"]
    assert by_case["absent"]["skipped"] == "not installed: No module named 'no_such_kernel'"
    assert by_case["elsewhere"]["skipped"] == "needs another card"
    assert by_case["raises"]["failed"] == "RuntimeError: CUDA error: an illegal memory access"
    assert by_case["hangs"]["failed"] == "no end after 0 s"
    assert by_case["dies"]["failed"] == "ended by SIGKILL: killed by hand"
    assert {name for name, row in by_case.items() if command.is_bad(row)} == {"raises", "hangs", "dies"}


def test_what_the_time_does_not_reach_says_so(tmp_path: Path) -> None:
    rows = run_section("made", "tests.gpu.made_section", where(0.0), tmp_path)
    assert rows == [{"case": "made", "skipped": OUT_OF_TIME}]


def test_a_section_that_cannot_begin_has_one_row(tmp_path: Path) -> None:
    (row,) = run_section("broken", "tests.gpu.broken_section", where(60), tmp_path)
    assert row == {"case": "broken", "failed": "exit code 1: RuntimeError: the driver is gone"}
    (row,) = run_section("absent", "tests.gpu.no_such_section", where(60), tmp_path)
    assert row["skipped"].startswith("not installed: ")


def test_the_command_writes_after_each_section_and_its_exit_code_says_whether_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SECTIONS", {"broken": "tests.gpu.broken_section", "made": "tests.gpu.made_section"})
    out = tmp_path / "gpu.json"
    assert command.main(["--device", "cpu", "--tiny", "--out", str(out), "--only", "broken", "made"]) == 1
    sections = json.loads(out.read_text())["sections"]
    assert len(sections["broken"]) == 1 and len(sections["made"]) == 8
    written = capsys.readouterr()
    assert "no figure here means anything" in written.out
    assert "made: 3 well, 3 bad (raises, hangs, dies), 2 skipped (absent, elsewhere)" in written.err


def test_without_a_gpu_it_says_what_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err and not list(tmp_path.iterdir())
