"""Pre-train InternLM2 over its phases on Ray Train workers: tokens -> `<run>/pretrain/model`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray

from ilm_ray.config import Config
from ilm_ray.corpus.mixture import MAX_PASSES
from ilm_ray.corpus.stage import Context, Result, Stage
from ilm_ray.parallel.calibration import read_calibration
from ilm_ray.parallel.devices import Device, known_device
from ilm_ray.pretrain.phases import PretrainTask, phase_mixtures
from ilm_ray.pretrain.planning import settled, training_layout
from ilm_ray.pretrain.trainer import run_training
from ilm_ray.tokenizer.tokenizer import Tokenizer
from jobs._job import run_job

# What changes how the work is done and not what comes of it.
_NO_RESULT = {"checkpoint_every", "keep_checkpoints", "log_every", "workers", "loss_chunk", "micro_tokens"}
_NO_RESULT |= {"layout", "calibration"}


def _settings(config: Config) -> dict[str, Any]:
    pretrain = config.pretrain.model_dump(exclude=_NO_RESULT)
    return {"seed": config.seed, "model": config.model.model_dump(), "pretrain": pretrain}


def _work(context: Context) -> Result:
    drawn = _look_ahead(context)
    if context.config.pretrain.layout == "auto":
        context = replace(context, config=_laid_out(context))
    settings = context.config.pretrain
    assert settings.layout != "auto"
    result = run_training(context, PretrainTask, settings.weight_decay, settings.layout)
    return replace(result, metrics=result.metrics | {"drawn": drawn})


def _laid_out(context: Context) -> Config:
    """The configuration with the planner's layout for the devices of this cluster; the journal says why that one."""
    vocab_size = Tokenizer.load(context.of("tokenizer")).vocab_size
    pretrain = context.config.pretrain
    choice = training_layout(context.config, vocab_size, pretrain.workers, _device(pretrain.calibration))
    context.journal.event("note", why=f"layout=auto: {choice.why}")
    return settled(context.config, choice)


def _device(calibration: str | None) -> Device:
    """The cluster's kind of device, as it was measured or from its data sheet."""
    if calibration is not None:
        return read_calibration(Path(calibration))[0]
    kinds = sorted(name for name in ray.cluster_resources() if name.startswith("accelerator_type:"))
    return known_device(kinds[0].partition(":")[2] if kinds else None)


def _look_ahead(context: Context) -> list[dict[str, Any]]:
    """What each phase will draw from each source; what a person should know of it goes to the journal."""
    phases, rows = context.config.pretrain.phases, list[dict[str, Any]]()
    for phase, mixture in zip(phases, phase_mixtures(phases, context.config.seed, context.run_dir), strict=True):
        drawn = mixture.drawn(phase.steps * phase.sequences)
        rows += [{"phase": phase.name, **asdict(part)} for part in drawn]
        notes = list(mixture.notes)
        if absent := sorted(phase.mixture.keys() - {part.source for part in drawn}):
            notes.append(f"no tokens of {', '.join(absent)}: shares of the rest grow")
        notes += [
            f"{part.source}: {part.kind} documents are read {part.passes:.1f} times; give more of them, or a smaller "
            f"share (up to {MAX_PASSES} times is nearly as good as new data)"
            for part in drawn
            if part.passes > MAX_PASSES
        ]
        for note in notes:
            context.journal.event("note", phase=phase.name, why=note)
    return rows


STAGE = Stage("pretrain", ("tokenizer", "tokens", "long_text"), _settings, _work, trains=True)

if __name__ == "__main__":
    run_job("pretrain", [STAGE])
