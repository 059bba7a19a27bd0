"""Select the long documents that are worth a long context (report section 3.3): `<run>/long_text`.

python jobs/long_text.py [--preset nano] [--run-dir DIR] [key.sub=value ...]
"""

import dataclasses
from typing import Any

from ilm_ray.base.jsonl import sha256_of
from ilm_ray.config import Config
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    from ilm_ray.data.longtext.thresholds import read_thresholds

    settings = config.long_text
    made = {"long_text": result_settings(settings), "thresholds": read_thresholds(settings.thresholds)}
    if settings.scorer is not None:
        return made
    return made | {"seed": config.seed, "training": result_settings(config.training)}


def _sources(config: Config) -> dict[str, str]:
    from ilm_ray.data.longtext.models import scorer_files
    from ilm_ray.data.longtext.thresholds import read_thresholds
    from ilm_ray.training.longtext_scorer import check_scorer_batch

    read_thresholds(config.long_text.thresholds)  # a wrong file is found before anything runs
    check_scorer_batch(config)
    scorer = config.long_text.scorer
    return {f"scorer {path.name}": sha256_of(path) for path in scorer_files(scorer)} if scorer else {}


def _work(context: Context) -> Result:
    from actors.perplexity import ScorerSettings, score_parts
    from ilm_ray.data.longtext.perplexity import Cut
    from ilm_ray.data.longtext.pipeline import find_long, mark_long

    config, folder = context.config, context.folder
    parts = find_long(context)
    figures: dict[str, Any] = {"model": config.long_text.scorer, "parts": len(parts)}
    if parts:
        model, tokenizer = config.long_text.scorer, None
        if model is None:
            figures |= _train_scorer(context)
            model, tokenizer = str(folder / "scorer" / "model"), str(context.of("tokenizer"))
        settings = ScorerSettings(model, tokenizer, Cut(config.long_text.segment_tokens, config.long_text.max_pairs))
        work = [(part, folder / "differences" / part.name) for part in parts]
        score_parts(work, settings, config.training.workers)
    return mark_long(context, figures)


def _train_scorer(context: Context) -> dict[str, Any]:
    from ilm_ray.training.longtext_scorer import ScorerTask
    from ilm_ray.training.ray_train import run_training

    folder = context.folder / "scorer"
    trained = run_training(
        dataclasses.replace(context, folder=folder), ScorerTask, context.config.training.weight_decay
    )
    return {f"training_{name}": value for name, value in trained.metrics["summary"].items()}


STAGE = Stage(
    "long_text",
    ("text", "code", "tokenizer", "tokens"),
    _settings,
    _work,
    _sources,
    trains=True,
    reads=("text", "long_text", "training"),
)

if __name__ == "__main__":
    run_job("long_text", [STAGE])
