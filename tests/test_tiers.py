"""The tiers hold what they promise: `quick` starts no process, GPUs are hidden, the commands select what they say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TESTS = """
import multiprocessing, os, subprocess
import pytest

def test_plain(): pass

def test_runs(): subprocess.run(["true"])

def test_forks():
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def test_spawns():
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()

@pytest.fixture
def child(): return subprocess.run(["true"])

def test_whose_fixture_runs(child): pass

@pytest.mark.process
def test_marked(): subprocess.run(["true"])

@pytest.fixture
def local_ray(): pass

@pytest.fixture
def behind(local_ray): pass

def test_that_needs_ray(behind): pass

def test_that_needs_a_gpu(cuda): pass
"""


def run_pytest(folder: Path, *options: str) -> str:
    """What pytest says of TESTS with our settings and our conftest.py."""
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copy(REPOSITORY / "tests" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_made.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.process
def test_a_quick_test_that_starts_a_process_fails_and_fixtures_take_a_test_out_of_the_tier(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "-m", "quick")
    for name in ("test_runs", "test_forks", "test_spawns", "test_whose_fixture_runs"):
        assert f"ERROR tests/test_made.py::{name} - Failed" in output, output
    assert "5 passed, 3 deselected, 4 errors" in output, output


@pytest.mark.process
def test_tests_of_a_gpu_run_only_where_they_are_asked_for_and_skip_without_one(tmp_path: Path) -> None:
    assert "test_that_needs_a_gpu" not in run_pytest(tmp_path)
    assert "1 skipped, 7 deselected" in run_pytest(tmp_path, "-m", "gpu")


@pytest.mark.skipif(bool(os.environ.get("GPU_TESTS")), reason="`make gpu` shows the GPUs")
def test_no_other_test_sees_a_gpu() -> None:
    import torch

    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and torch.cuda.device_count() == 0


def test_continuous_integration_runs_lint_the_bill_of_materials_and_the_readmes_test_command() -> None:
    commands = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert [line for line in commands if line.startswith("make ")] == ["make lint", "make sbom", "make test"]
    assert "\nmake test " in (REPOSITORY / "README.md").read_text()
