"""Measure the run's models: bits per byte, also by position, rewards and KL before and after PPO, answers.

    python jobs/evaluation.py [--preset nano] [--run-dir DIR] [key.sub=value ...]

"PPO" is the policy of the last online round, and rewards are those of that round's reward model. A run that begins with
a brought model measures what it has: bits per byte where it has held-out text, rewards where it has trained with PPO.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.places import located
from ilm_ray.config import Config
from ilm_ray.config.road import among, begins_with, initial_folder, stages_on
from ilm_ray.config.section import result_settings
from ilm_ray.evaluation.summary import alignment_summary, gain_in_errors
from ilm_ray.run.manifest import digest
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    # What answers are sampled with; how PPO was trained reaches this stage through its manifest.
    sampling = config.ppo.model_dump(include={"max_prompt_tokens", "max_new_tokens", "temperature", "top_p"})
    return {"seed": config.seed, "evaluation": result_settings(config.evaluation), "sampling": sampling}


def _sources(config: Config) -> dict[str, str]:
    text = config.evaluation.position_text
    if text is None and config.start == "evaluation" and not measures_text(config):
        raise UserError(
            "from=evaluation has nothing to measure: give input (web archives) or evaluation.position_text (a text)"
        )
    if text is None:
        return {}
    try:
        return {"position_text": digest(Path(located(text)).read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise UserError(f"evaluation.position_text={text} cannot be read as text in UTF-8 ({error})") from None


def _work(context: Context) -> Result:
    from ilm_ray.evaluation.pipeline import heldout_measures

    config, run = context.config, context.run_dir
    models = _models(context)
    measures = heldout_measures(models, run, config) if measures_text(config) else {}
    bits = {stage: measured["bits_per_byte"] for stage, measured in measures.items()}
    report: dict[str, Any] = {
        "bits_per_byte": bits,
        "by_position": {stage: measured["by_position"] for stage, measured in measures.items()},
    }
    summary: dict[str, Any] = {"bits_per_byte": next(reversed(bits.values()), None)}
    metrics: dict[str, Any] = {"bits_per_byte": bits}
    if "ppo" in models:
        rewards, figures = _rewards(context, models)
        report |= rewards
        summary |= figures
        metrics |= {"alignment": rewards["alignment"]}
    path = context.folder / "evaluation.json"
    write_text_atomic(path, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))
    return Result([path], {"summary": summary, **metrics})


def measures_text(config: Config) -> bool:
    """Whether there is text to measure bits per byte on."""
    return config.evaluation.position_text is not None or "tokens" in stages_on(config)


def _models(context: Context) -> dict[str, Path]:
    """The run's models by the names that the report gives them: pretrain or base, sft (the policy before PPO), ppo."""
    config, run = context.config, context.run_dir
    models = dict[str, Path]()
    if among(config, "sft"):
        models["pretrain" if among(config, "pretrain") else "base"] = initial_folder(config, "sft", run)
    models["sft"] = initial_folder(config, "policy", run)
    return models | ({"ppo": run / _last(context)["model"]} if among(config, "ppo") else {})


def _last(context: Context) -> dict[str, Any]:
    """Folders within the run of the policy that is its result, and of the reward model that it was trained with."""
    if "online" in context.upstream:
        last: dict[str, Any] = context.upstream["online"].metrics["summary"]
        return last
    wanted = context.config.ppo.has_reward_model
    judge = str(initial_folder(context.config, "reward_model", Path())) if wanted else None
    return {"model": "ppo/model", "reward_model": judge}


def _rewards(context: Context, models: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report's part about rewards, and the stage's summary of it."""
    from actors.scoring import chat_ids, read_prompts, score_policy
    from ilm_ray.alignment.reward.conditional import Conditions, load_conditions
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    config, run, last = context.config, context.run_dir, _last(context)
    judge = run / last["reward_model"] if last["reward_model"] else None
    tokenizer = open_tokenizer(run / "tokenizer")
    conditions = load_conditions(judge, tokenizer) if judge else Conditions({}, None)
    prompts = read_prompts(config, tokenizer, conditions, "heldout")[0][: config.evaluation.heldout_prompts]
    chat = chat_ids(tokenizer, conditions)
    rows = {
        stage: score_policy(
            models[stage], models["sft"], judge, prompts, chat, config, run / "tokenizer", tokenizer.decode
        )
        for stage in ("sft", "ppo")
    }
    # Where a function gave no verdict, the prompt counts for neither.
    failed = {row["id"] for scored in rows.values() for row in scored if row["reward"] is None}
    rows = {stage: [row for row in scored if row["id"] not in failed] for stage, scored in rows.items()}
    accuracy = context.upstream["reward"].metrics["accuracy"] if "reward" in context.upstream else {}
    alignment = {stage: alignment_summary(scored) for stage, scored in rows.items()}
    gain = gain_in_errors([r["reward"] for r in rows["sft"]], [r["reward"] for r in rows["ppo"]])
    report = {
        "model": last["model"],
        "reward_accuracy": accuracy,
        "alignment": alignment,
        "reward_gain_in_standard_errors": gain,
        "by_domain": _by_domain(rows),
        "conversations": _conversations(rows, config.evaluation.samples, tokenizer.plain_text),
    }
    summary = {
        "reward_sft": alignment["sft"]["reward_mean"],
        "reward_ppo": alignment["ppo"]["reward_mean"],
        "reward_gain_in_standard_errors": gain,
        "kl_nats": alignment["ppo"]["kl_mean"],
    }
    return report, summary | ({"reward_accuracy": accuracy["all"]["conditional"]} if accuracy else {})


def _by_domain(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    domains = sorted({row["domain"] for row in rows["sft"]})
    return {
        domain: {
            stage: alignment_summary([r for r in scored if r["domain"] == domain]) for stage, scored in rows.items()
        }
        for domain in domains
    }


def _conversations(
    rows: dict[str, list[dict[str, Any]]], count: int, plain_text: Callable[[str], str]
) -> list[dict[str, Any]]:
    """`count` prompts spread over the domains, with both models' answers, as `plain_text` shows them."""
    pairs = sorted(zip(rows["sft"], rows["ppo"], strict=True), key=lambda p: p[0]["domain"])
    chosen = pairs[:: max(1, len(pairs) // count)][:count]
    return [
        {
            "domain": sft["domain"],
            "prompt": plain_text(sft["prompt"]),
            "sft": plain_text(sft["response"]),
            "ppo": plain_text(ppo["response"]),
            "reward_sft": sft["reward"],
            "reward_ppo": ppo["reward"],
        }
        for sft, ppo in chosen
    ]


def _needs(config: Config) -> tuple[str, ...]:
    trained = among(config, "tokenizer", "tokens", "pretrain", "sft", "reward", "ppo", "online")
    others = [*(("sft",) if "sft" in trained else ()), "policy", *(("reward_model",) if "ppo" in trained else ())]
    return tuple(dict.fromkeys((*trained, *begins_with(config, *others))))


STAGE = Stage("evaluation", _needs, _settings, _work, _sources, reads=("training", "pretrain", "ppo", "evaluation"))

if __name__ == "__main__":
    run_job("evaluation", [STAGE])
