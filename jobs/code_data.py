"""A source tree -> dependency-sorted repository documents (`code.source=DIR`; default: Python's standard library)."""

from typing import Any

from ilm_ray.code.pipeline import build_code_documents, source_fingerprint
from ilm_ray.config import Config
from ilm_ray.corpus.stage import Stage
from jobs._job import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"code": config.code.model_dump()}


STAGE = Stage("code", (), _settings, build_code_documents, source_fingerprint)

if __name__ == "__main__":
    run_job("code_data", [STAGE])
