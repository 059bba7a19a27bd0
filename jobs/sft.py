"""Fine-tune the pre-trained model, or a brought one, on conversations: `<run>/sft/model`.

python jobs/sft.py [--preset nano] [--run-dir DIR] sft.data=FILE [key.sub=value ...]
"""

from dataclasses import asdict
from typing import Any

from ilm_ray.alignment.inputs import chat_file, check_chats, mixed_sequences
from ilm_ray.base.rows import rows_digest
from ilm_ray.config import Config
from ilm_ray.config.named_data import stage_off
from ilm_ray.config.road import among, begins_with, in_effect
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"seed": config.seed, "training": result_settings(config.training), "sft": result_settings(config.sft)}


def _sources(config: Config) -> dict[str, str]:
    check_chats(config)
    mixed_sequences(in_effect(config).sft)
    return {"conversations": rows_digest(chat_file(config))}


def _work(context: Context) -> Result:
    from ilm_ray.alignment.conversations import notes, tokenize_conversations
    from ilm_ray.alignment.repositories import tokenize_repositories
    from ilm_ray.alignment.sft import SFTTask
    from ilm_ray.run.metrics import DOCUMENTS, counter
    from ilm_ray.training.ray_train import run_training

    sft = context.config.sft
    counts, written = tokenize_conversations(chat_file(context.config), context.run_dir, sft.context)
    whole = counts.rows - counts.cut - counts.left_out
    for outcome, rows in (("kept", whole), ("cut", counts.cut), ("removed", counts.left_out)):
        if rows:  # Ray refuses to count by nothing
            counter(DOCUMENTS).inc(rows, tags={"stage": "sft", "outcome": outcome})
    for note in notes(counts, sft.context):
        context.journal.event("note", stage="sft", why=note)
    mixed = list[dict[str, Any]]()
    if sft.pretrain_share:
        written += tokenize_repositories(context.run_dir)
        task = SFTTask(context.config, context.run_dir)
        mixed = [asdict(part) for part in task.mixture.drawn(task.steps * task.mixed)]
        for note in task.mixture.notes:
            context.journal.event("note", stage="sft", why=note)
    result = run_training(context, SFTTask, context.config.training.weight_decay)
    made = {"conversations": counts._asdict(), "left_out": list(notes(counts, sft.context)), "pretrain_data": mixed}
    return Result([*result.files, *written], {**result.metrics, **made, "off": stage_off(context.config, "sft")})


STAGE = Stage(
    "sft",
    lambda config: ("tokenizer", *among(config, "tokens", "long_text"), *begins_with(config, "sft")),
    _settings,
    _work,
    _sources,
    trains=True,
    reads=("base", "start", "training", "pretrain", "sft"),
)

if __name__ == "__main__":
    run_job("sft", [STAGE])
