"""A submitted job runs in a copy of the repository, each time another one: what stages depend on must not tell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PRINT = """
import json
import ilm_ray
from ilm_ray.config import load_config
from jobs.pipeline import STAGES
config = load_config("nano", None, [])
print(json.dumps([ilm_ray.__file__, {s.name: [s.settings(config), s.sources(config)] for s in STAGES}], default=str))
"""


def told_by_a_copy(folder: Path, started_in: Path | None = None) -> tuple[Path, dict[str, list[object]]]:
    """Where its package lies, and settings and inputs of every stage."""
    for name in ("ilm_ray", "actors", "jobs", "demo"):
        shutil.copytree(REPOSITORY / name, folder / name)  # with its compiled loops
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=started_in or folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    package, stages = json.loads(done.stdout.splitlines()[-1])
    return Path(package), stages


@pytest.mark.process
def test_settings_and_inputs_of_all_stages_are_those_of_any_copy(tmp_path: Path) -> None:
    package, stages = told_by_a_copy(tmp_path / "one")
    # The command works from anywhere.
    other_package, other_stages = told_by_a_copy(tmp_path / "a_longer_name", started_in=tmp_path)
    assert package.is_relative_to(tmp_path / "one") and other_package.is_relative_to(tmp_path / "a_longer_name")
    assert stages["text"][1] and stages["decontamination"][1]
    assert stages == other_stages
