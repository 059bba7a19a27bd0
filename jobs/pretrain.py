"""Pre-train InternLM2 over its phases on Ray Train workers: tokens -> `<run>/pretrain/model`."""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.corpus.mixture import present_shares
from ilm_ray.corpus.stage import Context, Result, Stage
from ilm_ray.pretrain.phases import PretrainTask, open_sources
from ilm_ray.pretrain.trainer import run_training
from jobs._job import run_job

# What changes how the work is done and not what comes of it.
_NO_RESULT = {"checkpoint_every", "keep_checkpoints", "log_every", "workers", "layout", "loss_chunk", "micro_tokens"}


def _settings(config: Config) -> dict[str, Any]:
    pretrain = config.pretrain.model_dump(exclude=_NO_RESULT)
    return {"seed": config.seed, "model": config.model.model_dump(), "pretrain": pretrain}


def _work(context: Context) -> Result:
    sources = open_sources(context.of("tokens"), "train")
    for phase in context.config.pretrain.phases:
        absent = sorted(phase.mixture.keys() - present_shares(phase.mixture, sources).keys())
        if absent:
            context.journal.event(
                "note", phase=phase.name, why=f"no tokens of {', '.join(absent)}: shares of the rest grow"
            )
    settings = context.config.pretrain
    return run_training(context, PretrainTask, settings.weight_decay, settings.layout)


STAGE = Stage("pretrain", ("tokenizer", "tokens"), _settings, _work, trains=True)

if __name__ == "__main__":
    run_job("pretrain", [STAGE])
