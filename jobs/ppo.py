"""Train the policy by PPO on Ray actor groups: `<run>/ppo/model`.

    python jobs/ppo.py [--preset nano] [--run-dir DIR] [key.sub=value ...]

It begins with the SFT model and the conditional reward model, or with brought ones. Functions and rules of
`ppo.rewards` join the reward model or take its place; other estimators than the critic's compare groups of answers
(docs/rewards.md).
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ilm_ray.alignment.inputs import prompt_file, prompt_rows, unread_notes
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.base.rows import require_splits, rows_digest
from ilm_ray.config import Config
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.named_data import stage_off
from ilm_ray.config.road import among, begins_with, initial_folder
from ilm_ray.config.section import result_settings
from ilm_ray.evaluation.verifiers.named import source_of
from ilm_ray.evaluation.verifiers.worker import FunctionProcess
from ilm_ray.model.origin import model_files
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job

Item = TypeVar("Item")
if TYPE_CHECKING:
    from actors.ppo.roles import Inputs
    from ilm_ray.alignment.pretrain_data import PretrainMix

READS = ("base", "start", "training", "pretrain", "reward", "ppo")


def settings(config: Config) -> dict[str, Any]:
    from actors.ppo.engines import choose_backend

    backend = choose_backend(config.ppo.rollout_backend)
    # The backend is named as chosen: with the same seed, the two draw different answers.
    return {"seed": config.seed, "ppo": result_settings(config.ppo), "backend": backend}


def _sources(config: Config) -> dict[str, str]:
    rows = prompt_rows(config)
    require_splits(rows, "ppo.prompts")
    set_aside([row for row in rows if row.get("split", "train") == "train"], config.ppo)
    _check_rewards(config)
    functions = {part.by: source_of(part.by, Path.cwd()) for part in config.ppo.functions}
    own = {f"reward {by}": sha256_of(path) for by, path in functions.items() if path is not None}
    return {"prompts": rows_digest(prompt_file(config)), **own}


def _check_rewards(config: Config) -> None:
    """Raise UserError where no part of the reward judges a prompt, or a rule lacks its reference."""
    wants = {"mathematics": "answer", "code": "tests"}
    for row in prompt_rows(config):
        judging = [part.by for part in config.ppo.rewards if part.judges(row["domain"])]
        if not judging:
            raise UserError(
                f"no part of ppo.rewards judges domain '{row['domain']}' (prompt {row['id']}); add one, or the domain "
                "to a part's domains"
            )
        for rule in judging:
            if rule in wants and wants[rule] not in row.get("metadata", {}):
                raise UserError(
                    f"ppo.prompts: prompt {row['id']} has no metadata.{wants[rule]}, which the part by={rule} needs; "
                    "add it, or give the part the domains that have it"
                )


def inputs_of(context: Context, reward: str | None = None) -> tuple["Inputs", list[str]]:
    """The inputs of a run, and for people a line on fields of the prompts that nothing reads; reward: see `ppo_stage`.

    Raises UserError where a model does not fit the tokenizer, or a function or a prompt is wrong.
    """
    from actors.ppo.roles import Inputs
    from actors.scoring import chat_ids, read_prompts
    from ilm_ray.alignment.reward.conditional import Conditions, load_conditions
    from ilm_ray.data.tokenizer.opening import open_tokenizer, require_fit
    from ilm_ray.model.weights import load_shape
    from ilm_ray.run.metrics import DOCUMENTS, counter

    config = context.config
    tokenizer = open_tokenizer(context.of("tokenizer"))
    policy = initial_folder(config, "policy", context.run_dir)
    judge = None
    if config.ppo.has_reward_model:
        judge = context.of(reward) / "model" if reward else initial_folder(config, "reward_model", context.run_dir)
    for model in (policy, *([judge] if judge else [])):
        require_fit(tokenizer, load_shape(model).vocab_size, str(model))
    conditions = load_conditions(judge, tokenizer) if judge else Conditions({}, None)
    _check_functions(config.ppo)
    prompts, dropped = read_prompts(config, tokenizer, conditions, "train")
    prompts, validation = set_aside(prompts, config.ppo)
    left_out = unread_notes(prompt_rows(config), "ppo.prompts")
    for note in left_out:
        context.journal.event("note", stage=context.folder.name, why=note)
    for outcome, count in (("kept", len(prompts) + len(validation)), ("removed", dropped)):
        if count:  # Ray refuses to count by nothing
            counter(DOCUMENTS).inc(count, tags={"stage": context.folder.name, "outcome": outcome})
    if dropped:
        context.journal.event("drop", prompts=dropped, why=f"longer than {config.ppo.max_prompt_tokens} tokens")
        most = config.ppo.max_prompt_tokens
        left_out.append(f"{dropped} prompts are longer than ppo.max_prompt_tokens={most}: left out")
    inputs = Inputs(
        policy=policy,
        reward=judge,
        prompts=prompts,
        chat=chat_ids(tokenizer, conditions),
        pretrain=_pretrain_mix(context),  # none without tokens, see `in_effect`
        reward_context=config.reward.context,
        micro_tokens=config.training.micro_tokens,
        loss_chunk=config.training.loss_chunk,
        seed=config.seed,
        validation=validation,
        tokenizer=context.of("tokenizer"),
    )
    return inputs, left_out


def _work(context: Context, reward: str | None) -> Result:
    from actors.ppo.driver import PPORun
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    config, folder = context.config, context.folder
    (inputs, left_out), tokenizer = inputs_of(context, reward), open_tokenizer(context.of("tokenizer"))
    with PPORun(config.ppo, inputs, folder, context.journal) as run:
        rows = run.run(tokenizer.decode)
    shown = ("reward", "unscored", "kl", "response_tokens", "logprob_gap", "clip_fraction", "pretrain_loss")
    summary = {
        "iterations": len(rows),
        "best_iteration": run.state.best,
        "reward_first": rows[0]["reward"],
        **{key: rows[-1].get(key) for key in shown},
        "logprob_gap_max": max((row["logprob_gap"] for row in rows if "logprob_gap" in row), default=None),
        "seconds_per_iteration": round(sum(row["seconds"]["all"] for row in rows) / len(rows), 3),
    }
    files = [*model_files(folder / "model"), folder / "metrics.jsonl", folder / "samples.jsonl"]
    return Result(files, {"summary": summary, "off": stage_off(config, "ppo"), "left_out": left_out})


def _check_functions(ppo: PPOConfig) -> None:
    """Raise UserError where a function cannot be imported."""
    for part in ppo.functions:
        process = FunctionProcess(part.by, part.options, part.seconds, Path.cwd())
        if (why := process.start()) is not None:
            raise UserError(why)
        process.stop()


def set_aside(prompts: list[Item], ppo: PPOConfig) -> tuple[list[Item], list[Item]]:
    """Prompts to train on and prompts to validate with, the latter evenly from all; none without validation."""
    if ppo.validate_every is None:
        return prompts, []
    count = ppo.validation_prompts
    if count >= len(prompts):
        raise UserError(
            f"ppo.validation_prompts={count} leaves nothing of {len(prompts)} prompts to train on; lower it, add "
            f"prompts or set ppo.validate_every=null"
        )
    chosen = {i * len(prompts) // count for i in range(count)}
    return [p for i, p in enumerate(prompts) if i not in chosen], [prompts[i] for i in sorted(chosen)]


def _pretrain_mix(context: Context) -> "PretrainMix | None":
    """Sequences of `ppo.pretrain_context` tokens for the policy's loss; the journal has sources that are short of
    them."""
    config, ppo = context.config, context.config.ppo
    if ppo.pretrain_coefficient == 0 or ppo.pretrain_share == 0:
        return None
    from ilm_ray.alignment.pretrain_data import pretrain_mix

    mix = pretrain_mix(config, ppo.pretrain_mixture, ppo.pretrain_context, context.run_dir)
    for note in mix.open(config.seed).notes:
        context.journal.event("note", stage="ppo", why=note)
    return mix


def ppo_stage(name: str, reward: str | None = None) -> Stage:
    """PPO from the SFT model, or the one that is brought for it.

    reward: the stage that trained the reward model, of a round; None: the run's first reward model, or one that is
    brought.
    """

    def needs(config: Config) -> tuple[str, ...]:
        judge = begins_with(config, "reward_model") if reward is None else (reward,)
        data = among(config, "tokens", "long_text")
        return tuple(dict.fromkeys(("tokenizer", *data, *begins_with(config, "policy"), *judge)))

    return Stage(name, needs, settings, partial(_work, reward=reward), _sources, trains=True, reads=READS)


STAGE = ppo_stage("ppo")

if __name__ == "__main__":
    run_job("ppo", [STAGE])
