"""Pre-train InternLM2 over its phases on Ray Train workers: `<run>/pretrain/model`.

python jobs/pretrain.py [--preset nano] [--run-dir DIR] [key.sub=value ...]
"""

from dataclasses import asdict, replace
from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.road import begins_with
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    parts = {"model": config.model, "training": config.training, "pretrain": config.pretrain}
    if config.base is not None:  # whose size is that of the model that is brought
        del parts["model"]
    return {"seed": config.seed} | {name: result_settings(part) for name, part in parts.items()}


def _work(context: Context) -> Result:
    from ilm_ray.training.plan.stretches import device_to_plan_for
    from ilm_ray.training.pretrain import PretrainTask
    from ilm_ray.training.ray_train import run_training

    if context.config.training.calibration:  # a wrong file is found before anything runs
        device_to_plan_for(context.config.training.calibration, None)
    drawn = _look_ahead(context)
    result = run_training(context, PretrainTask, context.config.training.weight_decay, measure_beside=True)
    return replace(result, metrics=result.metrics | {"drawn": drawn})


def _look_ahead(context: Context) -> list[dict[str, Any]]:
    """The share of each source in each phase; notable ones go to the journal."""
    from ilm_ray.data.tokens.mixture import MAX_PASSES
    from ilm_ray.training.pretrain import phase_mixtures

    phases, rows = context.config.pretrain.phases, list[dict[str, Any]]()
    for phase, mixture in zip(phases, phase_mixtures(phases, context.config.seed, context.run_dir), strict=True):
        drawn = mixture.drawn(phase.steps * phase.sequences)
        rows += [{"phase": phase.name, **asdict(part)} for part in drawn]
        notes = list(mixture.notes) + [
            f"{part.source}: {part.kind} documents are read {part.passes:.1f} times; give more of them, or a smaller "
            f"share (up to {MAX_PASSES} times is nearly as good as new data)"
            for part in drawn
            if part.passes > MAX_PASSES
        ]
        for note in notes:
            context.journal.event("note", phase=phase.name, why=note)
    return rows


STAGE = Stage(
    "pretrain",
    lambda config: ("tokenizer", "tokens", "long_text", *begins_with(config, "pretrain")),
    _settings,
    _work,
    trains=True,
    reads=("base", "start", "model", "training", "pretrain", "evaluation"),
)

if __name__ == "__main__":
    run_job("pretrain", [STAGE])
