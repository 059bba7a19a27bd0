"""What the run has learned: bits per byte, also by position, rewards and KL before and after PPO, conversations.

"PPO" is the policy of the last online round, and rewards are those of that round's reward model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.places import located
from ilm_ray.config import Config
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
    if text is None:
        return {}
    try:
        return {"position_text": digest(Path(located(text)).read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise UserError(f"evaluation.position_text={text} cannot be read as text in UTF-8 ({error})") from None


def _work(context: Context) -> Result:
    from actors.scoring import chat_ids, read_prompts, score_policy
    from ilm_ray.alignment.reward.conditional import load_conditions
    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.evaluation.pipeline import heldout_measures

    config, run = context.config, context.run_dir
    last = context.upstream["online"].metrics["summary"]  # the last round's policy is the run's result
    models = {stage: run / stage / "model" for stage in ("pretrain", "sft")} | {"ppo": run / last["model"]}
    judge = run / last["reward_model"]
    measures = heldout_measures(models, run, config)
    bits = {stage: measured["bits_per_byte"] for stage, measured in measures.items()}
    tokenizer = open_tokenizer(run / "tokenizer")
    conditions = load_conditions(judge, tokenizer)
    prompts = read_prompts(config, tokenizer, conditions, "heldout")[0][: config.evaluation.heldout_prompts]
    chat = chat_ids(tokenizer, conditions)
    rows = {
        stage: score_policy(models[stage], models["sft"], judge, prompts, chat, config, tokenizer.decode)
        for stage in ("sft", "ppo")
    }
    reward = context.upstream["reward"]
    alignment = {stage: alignment_summary(scored) for stage, scored in rows.items()}
    gain = gain_in_errors([r["reward"] for r in rows["sft"]], [r["reward"] for r in rows["ppo"]])
    report = {
        "model": last["model"],
        "bits_per_byte": bits,
        "by_position": {stage: measured["by_position"] for stage, measured in measures.items()},
        "reward_accuracy": reward.metrics["accuracy"],
        "alignment": alignment,
        "reward_gain_in_standard_errors": gain,
        "by_domain": _by_domain(rows),
        "conversations": _conversations(rows, config.evaluation.samples, tokenizer.plain_text),
    }
    path = context.folder / "evaluation.json"
    write_text_atomic(path, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))
    summary = {
        "bits_per_byte": bits["ppo"],
        "reward_sft": alignment["sft"]["reward_mean"],
        "reward_ppo": alignment["ppo"]["reward_mean"],
        "reward_gain_in_standard_errors": gain,
        "kl_nats": alignment["ppo"]["kl_mean"],
        "reward_accuracy": reward.metrics["accuracy"]["all"]["conditional"],
    }
    return Result([path], {"summary": summary, "bits_per_byte": bits, "alignment": alignment})


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


NEEDS = ("tokenizer", "tokens", "pretrain", "sft", "reward", "ppo", "online")
STAGE = Stage("evaluation", NEEDS, _settings, _work, _sources, reads=("training", "pretrain", "ppo", "evaluation"))

if __name__ == "__main__":
    run_job("evaluation", [STAGE])
