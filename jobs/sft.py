"""Supervised fine-tuning of the pre-trained model, or one that is brought, on conversations: `<run>/sft/model`."""

from typing import Any

from ilm_ray.alignment.inputs import chat_file, chat_rows
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.config import Config
from ilm_ray.config.named_data import stage_off
from ilm_ray.config.road import among, begins_with
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"seed": config.seed, "training": result_settings(config.training), "sft": result_settings(config.sft)}


def _sources(config: Config) -> dict[str, str]:
    chat_rows(config)
    return {"conversations": sha256_of(chat_file(config))}


def _work(context: Context) -> Result:
    from ilm_ray.alignment.repositories import tokenize_repositories
    from ilm_ray.alignment.sft import SFTTask, long_sources
    from ilm_ray.training.ray_train import run_training

    sft = context.config.sft
    written = tokenize_repositories(context.run_dir) if sft.pretrain_share and sft.repository_share else []
    result = run_training(context, SFTTask, context.config.training.weight_decay)
    sources, shares = long_sources(context.config, context.run_dir)
    mixed = {name: {"share": shares[name], "tokens": sources[name].total_tokens} for name in shares if name in sources}
    return Result(
        [*result.files, *written], {**result.metrics, "pretrain_data": mixed, "off": stage_off(context.config, "sft")}
    )


STAGE = Stage(
    "sft",
    lambda config: ("tokenizer", *among(config, "tokens"), *begins_with(config, "sft")),
    _settings,
    _work,
    _sources,
    trains=True,
    reads=("base", "start", "training", "pretrain", "sft"),
)

if __name__ == "__main__":
    run_job("sft", [STAGE])
