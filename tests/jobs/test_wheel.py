"""The package outside its checkout: a wheel is built, unpacked elsewhere, and its command `ilm` runs jobs there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jobs
from jobs.__main__ import docstrings, main

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.process
def test_a_wheel_runs_jobs_away_from_the_checkout(tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # building leaves folders behind
    for name in ("ilm_ray", "actors", "jobs"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(tree)], check=True, timeout=200)
    (wheel,) = tmp_path.glob("ilm_ray-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "there")
    entry = next((tmp_path / "there").glob("*.dist-info/entry_points.txt")).read_text()
    module, function = re.search(r"^ilm = ([\w.]+):(\w+)$", entry, re.MULTILINE).groups()  # type: ignore[union-attr]
    code = f"import sys; from {module} import {function}; import jobs; print(jobs.__file__); sys.exit({function}())"

    def ilm(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    planned = ilm("plan", "--preset", "7b", "--devices", "64", "--device", "h100")
    assert planned.returncode == 0 and str(tmp_path / "there") in planned.stdout.splitlines()[0], planned.stderr
    assert '"job": "plan"' in planned.stdout.splitlines()[-1]
    wrong = ilm("pretrian")
    assert wrong.returncode == 2 and "did you mean pretrain?" in wrong.stderr and wrong.stderr.count("\n") == 1
    refused = ilm("pipeline", "--preset", "7b", "--run-dir", str(tmp_path / "run"))
    assert refused.returncode == 2 and not (tmp_path / "run").exists()


def test_every_job_is_listed_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", capsys.readouterr().out, re.MULTILINE))
    files = {path.stem for path in Path(*jobs.__path__).glob("[!_]*.py")}
    assert listed.keys() == files == docstrings().keys()
    assert all(line[0].isupper() for line in listed.values())


@pytest.mark.process
def test_the_page_of_the_jobs_is_current() -> None:
    done = subprocess.run([sys.executable, "docs/jobs_page.py"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == (REPOSITORY / "docs/jobs.md").read_text(encoding="utf-8"), done.stderr
