"""Train the conditional reward model on preference pairs: `<run>/reward/model`.

    python jobs/reward.py [--preset nano] [--run-dir DIR] reward.data=FILE [key.sub=value ...]

Its body is the SFT model's, or a brought one's.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ilm_ray.alignment.inputs import preference_file, preference_rows, unread_note
from ilm_ray.base.rows import require_splits, rows_digest
from ilm_ray.config import Config
from ilm_ray.config.road import begins_with
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job

if TYPE_CHECKING:
    from ilm_ray.alignment.reward.task import RewardTask


def settings(config: Config) -> dict[str, Any]:
    parts = {"training": config.training, "reward": config.reward}
    return {"seed": config.seed} | {name: result_settings(part) for name, part in parts.items()}


def sources(config: Config) -> dict[str, str]:
    require_splits(preference_rows(config), "reward.data")
    return {"preferences": rows_digest(preference_file(config))}


def train_reward(context: Context, make_task: Callable[..., "RewardTask"]) -> Result:
    """Train a reward model and keep its conditions beside it; accuracy on the pairs held out among the metrics."""
    from ilm_ray.alignment.reward.conditional import save_conditions
    from ilm_ray.alignment.reward.pairs import FOLDER, tokenize_pairs
    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.run.metrics import DOCUMENTS, counter
    from ilm_ray.training.ray_train import run_training

    reward = context.config.reward
    folder = context.folder / FOLDER
    unread, written = tokenize_pairs(preference_file(context.config), folder, context.of("tokenizer"), reward)
    result = run_training(context, partial(make_task, pairs=folder), reward.weight_decay)
    tokenizer = open_tokenizer(context.of("tokenizer"))
    conditions = save_conditions(context.folder / "model", tokenizer, reward.system_prompts)
    end = result.metrics["evaluations"][-1]
    figures, left_out = end["figures"], [unread_note("reward.data", unread)] if unread else []
    for outcome, pairs in (("kept", end["pairs"] - end["cut"]), ("cut", end["cut"])):
        if pairs:  # Ray refuses to count by nothing
            counter(DOCUMENTS).inc(pairs, tags={"stage": "reward", "outcome": outcome})
    if end["cut"]:
        left_out.append(
            f"{end['cut']} of {end['pairs']} pairs hold a conversation longer than reward.context={reward.context}: "
            "its beginning is not read"
        )
    overall = figures["all"]["conditional"]
    for note in left_out:
        context.journal.event("note", stage=context.folder.name, why=note)
    summary = {
        **result.metrics["summary"],
        "heldout_accuracy": overall["accuracy"],
        "calibration_error": overall["calibration_error"],
        "length_correlation": overall["length_correlation"],
    }
    accuracy = {d: {kind: row["accuracy"] for kind, row in kinds.items()} for d, kinds in figures.items()}
    metrics = {**result.metrics, "summary": summary, "accuracy": accuracy, "figures": figures, "left_out": left_out}
    return Result([*result.files, *written, conditions], metrics)


def _work(context: Context) -> Result:
    from ilm_ray.alignment.reward.task import RewardTask

    return train_reward(context, RewardTask)


STAGE = Stage(
    "reward",
    lambda config: ("tokenizer", *begins_with(config, "reward")),
    settings,
    _work,
    sources,
    trains=True,
    reads=("base", "start", "training", "reward"),
)

if __name__ == "__main__":
    run_job("reward", [STAGE])
