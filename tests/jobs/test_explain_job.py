"""explain as a process of its own: exit codes, one JSON line, and nothing heavy behind it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made_text import fate, make_documents, write_text_run

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = make_documents(80)


def explain(*arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of stdout and stderr."""
    command = [sys.executable, "jobs/explain.py", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_threshold_and_document(tmp_path: Path) -> None:
    write_text_run(tmp_path, DOCUMENTS)
    code, out, err = explain("threshold", "--run-dir", str(tmp_path), "--rule", "min_chars", "--at", "500")
    assert code == 0 and err == []
    expected = sum(200 <= d["chars"] < 500 and d["language"] != "de" for d in DOCUMENTS)
    assert json.loads(out[-1])["newly_removed"] == expected
    fallen = next(d for d in DOCUMENTS if (fate(d) or ("",))[0] == "clean")
    code, out, err = explain("document", str(fallen["id"]), "--run-dir", str(tmp_path), "--json")
    assert code == 0 and err == [] and len(out) == 1
    (story,) = json.loads(out[0])["documents"]
    assert story["url"] == fallen["url"] and story["steps"][-1]["verdict"] == fate(fallen)[1]  # type: ignore[index]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, out, err = explain("threshold", "--run-dir", str(tmp_path / "nowhere"), "--rule", "fluency", "--at", "0.5")
    assert code == 2 and len(err) == 1 and "does not exist" in err[0]
    assert json.loads(out[0])["status"] == "refused"


def test_it_needs_no_ray_and_no_model() -> None:
    heavy = "{'ray', 'torch', 'sklearn', 'transformers', 'trafilatura'}"
    code = f"import sys, jobs.explain; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0
