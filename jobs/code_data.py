"""Code data: source trees become dependency-sorted repository documents, `<run>/code/kept-*.jsonl.zst`."""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.section import result_settings
from ilm_ray.data.code.files.selection import tree_fingerprints
from ilm_ray.data.code.pipeline import build_code_data
from ilm_ray.run.stage import Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"code": result_settings(config.code)}


def _sources(config: Config) -> dict[str, str]:
    return tree_fingerprints(config.code)


STAGE = Stage("code", (), _settings, build_code_data, _sources, reads=("code",))

if __name__ == "__main__":
    run_job("code_data", [STAGE])
