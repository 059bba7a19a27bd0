"""The evaluation environment is found, and refused where it does not go with ours."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.environment import OPENCOMPASS, interpreter


def _environment(folder: Path, **packages: str) -> Path:
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name, version in packages.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    return folder


def test_one_with_the_same_ray_is_taken(tmp_path: Path) -> None:
    folder = _environment(tmp_path / "e", opencompass=OPENCOMPASS, ray=importlib.metadata.version("ray"))
    assert interpreter(str(folder)) == folder / "bin" / "python"


def test_another_ray_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ray 2\.1\.0 .* run `make eval-env`"):
        interpreter(str(_environment(tmp_path / "e", opencompass=OPENCOMPASS, ray="2.1.0")))
    with pytest.raises(UserError, match="no evaluation environment"):
        interpreter(str(tmp_path / "nowhere"))
