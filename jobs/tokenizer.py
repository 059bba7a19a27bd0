"""Build the tokenizer from cl100k's first tokens and Chinese tokens learned on the kept text: `<run>/tokenizer`.

    python jobs/tokenizer.py [--preset nano] [--run-dir DIR] [key.sub=value ...]

A run that begins with a model from outside takes that model's tokenizer, with the tokens that the stages need.
"""

from pathlib import Path
from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.road import brings_tokenizer
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import IN_PROGRESS, Context, Result, Stage
from jobs import base
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {} if config.base is not None else {"tokenizer": result_settings(config.tokenizer)}


def _sources(config: Config) -> dict[str, str]:
    if (folder := base.tokenizer_folder(config)) is not None:
        return base.tokenizer_hashes(folder)
    from ilm_ray.data.tokenizer.build import check_settings
    from ilm_ray.data.tokenizer.cl100k import cl100k, ranks_sha256

    check_settings(config.tokenizer)
    return {"cl100k": ranks_sha256(cl100k()[0])}


def _work(context: Context) -> Result:
    if (folder := base.tokenizer_folder(context.config)) is not None:
        return _bring(context, folder)
    from ilm_ray.data.tokenizer.build import build_tokenizer

    return build_tokenizer(context)


def _bring(context: Context, folder: Path) -> Result:
    tokenizer, added = base.bring(folder, context.folder)
    files = [path for path in sorted(context.folder.iterdir()) if path.name != IN_PROGRESS]
    summary = {"vocab_size": tokenizer.vocab_size, "added_tokens": added}
    return Result(files, {"summary": summary, "brought_from": str(folder)})


STAGE = Stage(
    "tokenizer",
    lambda config: () if brings_tokenizer(config) else ("text", "code"),
    _settings,
    _work,
    _sources,
    reads=("base", "tokenizer"),
)

if __name__ == "__main__":
    run_job("tokenizer", [STAGE])
