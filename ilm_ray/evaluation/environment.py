"""The virtual environment of OpenCompass. Its pins exclude ours (numpy 1), so it is separate.

Ray starts the evaluators with its interpreter (`py_executable`). That needs the same Python and the same Ray as here.
"""

import importlib.metadata
import sys
from pathlib import Path

from ilm_ray.base.errors import UserError

NAME = ".venv-eval"
OPENCOMPASS = "0.5.4"


def interpreter(setting: str | None) -> Path:
    """The environment's Python. setting: its folder; None: `.venv-eval` beside the environment that runs this.

    Raises UserError where the folder has no Python, or another version of OpenCompass or Ray.
    """
    folder = Path(setting) if setting else Path(sys.prefix).parent / NAME
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        raise UserError(f"no evaluation environment at {folder}; run `make eval-env`, or set benchmarks.environment")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    versions = installed(folder / "lib" / version / "site-packages")
    for package, wanted in (("opencompass", OPENCOMPASS), ("ray", importlib.metadata.version("ray"))):
        if versions.get(package) != wanted:
            raise UserError(
                f"{folder} holds {package} {versions.get(package, 'not at all')} for {version} where {wanted} is "
                "needed; run `make eval-env`"
            )
    return python


def installed(site_packages: Path) -> dict[str, str]:
    """Lower-case name -> version of each package in a site-packages folder; {} where the folder is missing."""
    distributions = importlib.metadata.distributions(path=[str(site_packages)])
    return {package.metadata["Name"].lower(): package.version for package in distributions}
