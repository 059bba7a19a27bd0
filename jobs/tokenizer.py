"""Tokenizer: a base from cl100k, Chinese tokens learned on the kept text, special tokens; `<run>/tokenizer`."""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"tokenizer": result_settings(config.tokenizer)}


def _sources(config: Config) -> dict[str, str]:
    from ilm_ray.data.tokenizer.build import check_settings
    from ilm_ray.data.tokenizer.cl100k import cl100k, ranks_sha256

    check_settings(config.tokenizer)
    return {"cl100k": ranks_sha256(cl100k()[0])}


def _work(context: Context) -> Result:
    from ilm_ray.data.tokenizer.build import build_tokenizer

    return build_tokenizer(context)


STAGE = Stage("tokenizer", ("text", "code"), _settings, _work, _sources, reads=("tokenizer",))

if __name__ == "__main__":
    run_job("tokenizer", [STAGE])
