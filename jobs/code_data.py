"""Turn source trees into dependency-sorted repository documents: `<run>/code/kept-*.jsonl.zst`.

python jobs/code_data.py [--preset nano] [--run-dir DIR] code.source=FOLDER [key.sub=value ...]
"""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"code": result_settings(config.code)}


def _sources(config: Config) -> dict[str, str]:
    from ilm_ray.data.code.files.selection import tree_fingerprints

    return tree_fingerprints(config.code)


def _work(context: Context) -> Result:
    from ilm_ray.data.code.pipeline import build_code_data

    return build_code_data(context)


STAGE = Stage("code", (), _settings, _work, _sources, reads=("code",))

if __name__ == "__main__":
    run_job("code_data", [STAGE])
