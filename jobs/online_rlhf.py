"""Run rounds of PPO, each with a reward model that the round before has patched (report section 4.2.2).

    python jobs/online_rlhf.py [--preset nano] [--run-dir DIR] [online.rounds=3] [online.labels=FILE] [key.sub=value]

Round 1 is the run's stages `reward` and `ppo`. After each round its answers are searched for patterns that the reward
model pays for and nobody asked for (fast path), and answers of SFT, early and late PPO are paired for people (slow
path): `<run>/rounds/N/patterns`. The next round trains its reward model from the one before on the patches, on what
people have labelled by then (`jobs/label_answers.py`) and on old pairs, and PPO starts anew from the SFT model. Every
step is a stage of its own in `<run>/rounds/N/`, so more rounds go on where fewer ended.
"""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilm_ray.alignment.inputs import preference_file, preference_rows, prompt_file, prompt_rows
from ilm_ray.alignment.online.labels import labelled_pairs, read_labels
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonObject, read_jsonl, write_jsonl
from ilm_ray.base.places import located
from ilm_ray.base.rows import rows_digest
from ilm_ray.config import Config
from ilm_ray.config.road import among, begins_with
from ilm_ray.config.section import result_settings
from ilm_ray.evaluation.summary import mean_and_error
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.stage import Context, Result, Stage, run_stage
from jobs import ppo, reward
from jobs.frame.stages import run_job

if TYPE_CHECKING:
    from ilm_ray.alignment.online.hacking import Pattern

PATTERNS, PATCHES, COMPARISONS, LABELS, PAIRS = (
    *("patterns.json", "patches.jsonl", "comparisons.jsonl", "labels.jsonl", "pairs.jsonl"),
)
_PPO_FIGURES = ("iterations", "reward_first", "reward", "kl", "response_tokens")  # no timings: files are compared
READS = ("training", "reward", "ppo", "online")
_KEYS = ("domain", "prompt", "chosen", "rejected")


def round_stages(number: int) -> list[Stage]:
    """The stages of a round that are not yet there when it starts, in order."""
    patterns = _patterns_stage(number)
    if number == 1:
        return [patterns]
    return [_reward_stage(number), ppo.ppo_stage(_name(number, "ppo"), _name(number, "reward")), patterns]


def _name(number: int, part: str) -> str:
    """Folder of a round's part within the run."""
    return part if number == 1 and part != "patterns" else f"rounds/{number}/{part}"


def _patterns_stage(number: int) -> Stage:
    def settings(config: Config) -> dict[str, Any]:
        return {"seed": config.seed, "online": config.online.model_dump(include={"comparisons", "judge"})}

    def sources(config: Config) -> dict[str, str]:
        return {"preferences": rows_digest(preference_file(config)), "prompts": rows_digest(prompt_file(config))}

    needs = ("tokenizer", *(_name(n, "reward") for n in range(1, number + 1)), _name(number, "ppo"))
    return Stage(_name(number, "patterns"), needs, settings, partial(_find, number=number), sources)


def _find(context: Context, number: int) -> Result:
    """Fast path, and the slow path's export."""
    from ilm_ray.alignment.online.comparisons import comparisons
    from ilm_ray.alignment.online.hacking import early_and_late, mine
    from ilm_ray.alignment.online.judge import ask_judge, judged_pairs
    from ilm_ray.alignment.online.patches import patch_pairs, preferences
    from ilm_ray.alignment.online.rollouts import read_answers
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    config, folder = context.config, context.folder
    tokenizer = open_tokenizer(context.of("tokenizer"))
    answers = read_answers(context.of(_name(number, "ppo")), lambda ids: tokenizer.plain_text(tokenizer.decode(ids)))
    prompts = {str(row["id"]): row["prompt"] for row in prompt_rows(config)}
    people = [*_people(context, number), *preference_rows(config)]
    mined = mine(answers, preferences(people))
    names = [f"round-{number}-{place}-{pattern.trait.kind}" for place, pattern in enumerate(mined.exploits, 1)]
    patches = [
        row
        for name, pattern in zip(names, mined.exploits, strict=True)
        for row in patch_pairs(pattern, answers, prompts, name)
    ]
    judge = None
    if config.online.judge is not None:
        url, model, pairs = config.online.judge.url, config.online.judge.model, early_and_late(answers)
        verdicts = ask_judge(url, model, pairs, prompts, config.online.judge_s, config.seed)
        judge = {name: getattr(verdicts, name) for name in ("asked", "early", "late", "p", "drifted")}
        patches += judged_pairs(verdicts, prompts, f"round-{number}-judge") if verdicts.drifted else []
    patterns = {
        "round": number,
        "judge": judge,
        "answers": len(answers),
        "pairs": mined.pairs,
        "tested": mined.tested,
        "found": [
            {"name": name, **_shown(pattern), "patches": sum(row["pattern"] == name for row in patches)}
            for name, pattern in zip(names, mined.exploits, strict=True)
        ],
        "learned": [_shown(pattern) for pattern in mined.learned],
    }
    write_text_atomic(folder / PATTERNS, json.dumps(patterns, indent=1, ensure_ascii=False, allow_nan=False))
    write_jsonl(folder / PATCHES, patches)
    comparison_rows = comparisons(answers, prompts, config.online.comparisons, number, config.seed)
    write_jsonl(folder / COMPARISONS, comparison_rows)
    summary = {"patterns": len(mined.exploits), "patches": len(patches), "comparisons": len(comparison_rows)}
    return Result([folder / name for name in (PATTERNS, PATCHES, COMPARISONS)], {"summary": summary})


def _shown(pattern: "Pattern") -> dict[str, Any]:
    return {**asdict(pattern), "severity": pattern.severity}


def _people(context: Context, number: int) -> list[JsonObject]:
    """Labels by people for the rounds up to `number`."""
    files = [context.of(_name(n, "reward")) / LABELS for n in range(2, number + 1)]
    return labelled_pairs([row for path in files for row in read_jsonl(path)])


def _reward_stage(number: int) -> Stage:
    earlier = (_name(number - 1, "reward"), *(_name(n, "patterns") for n in range(1, number)))

    def needs(config: Config) -> tuple[str, ...]:
        return ("tokenizer", *begins_with(config, "reward"), *earlier)

    work = partial(_patch, number=number)
    return Stage(_name(number, "reward"), needs, reward.settings, work, reward.sources, trains=True)


def _patch(context: Context, number: int) -> Result:
    """Train the reward model of the round before on all patches, the labels there are, and old pairs; compare both."""
    from ilm_ray.alignment.online.patches import PatchTask, mix

    config, folder = context.config, context.folder
    take_labels(context, number)
    people = _people(context, number)
    patches = [row for n in range(1, number) for row in read_jsonl(context.of(_name(n, "patterns")) / PATCHES)]
    old = list(preference_rows(config))
    write_jsonl(folder / PAIRS, mix(patches, people, old, config.seed + number))
    before = context.of(_name(number - 1, "reward"))
    mixed = config.model_copy(update={"reward": config.reward.model_copy(update={"data": str(folder / PAIRS)})})
    trained = reward.train_reward(replace(context, config=mixed), partial(PatchTask, earlier=before / "model"))
    compared = _compare(context, before / "model", [*patches, *people, *old])
    write_text_atomic(folder / "compared.json", json.dumps(compared, indent=1, ensure_ascii=False, allow_nan=False))
    files = [*trained.files, *(folder / name for name in (LABELS, PAIRS, "compared.json"))]
    summary = {**trained.metrics["summary"], "patches": len(patches), "labels": len(people)}
    return Result(files, {**trained.metrics, "summary": summary, "compared": compared})


def take_labels(context: Context, number: int) -> None:
    """Copy people's labels since the round before, unless this round has done so already.

    Labels that come later join the next round, and a round that was killed goes on with those it began with.
    """
    target, given = context.folder / LABELS, _labels_file(context.config)
    if target.exists():
        return
    earlier = {row["id"] for n in range(2, number) for row in read_jsonl(context.of(_name(n, "reward")) / LABELS)}
    fresh = read_labels(given) if given and given.is_file() else []
    write_jsonl(target, (row for row in fresh if row["id"] not in earlier))


def _compare(context: Context, before: Path, rows: list[JsonObject]) -> dict[str, dict[str, Any]]:
    """{pattern, or "people": {"pairs", "before", "after": {"chosen", "rejected": mean scores, their errors, "won"}}}.

    On pairs held out of training, by both reward models.
    """
    from actors.scoring import score_pairs
    from ilm_ray.alignment.reward.conditional import load_conditions
    from ilm_ray.data.tokenizer.opening import open_tokenizer

    heldout = [row for row in rows if row.get("split", "train") == "heldout"]
    tokenizer = open_tokenizer(context.of("tokenizer"))
    conditions = load_conditions(before, tokenizer)
    compared: dict[str, dict[str, Any]] = {}
    for when, model in (("before", before), ("after", context.folder / "model")):
        scores = score_pairs(model, heldout, tokenizer, conditions, context.config)
        for name in sorted({row.get("pattern", "people") for row in heldout}):
            pairs = [s for row, s in zip(heldout, scores, strict=True) if row.get("pattern", "people") == name]
            (chosen, chosen_error), (rejected, rejected_error) = (mean_and_error(c) for c in zip(*pairs, strict=True))
            compared.setdefault(name, {"pairs": len(pairs)})[when] = {
                "chosen": chosen,
                "chosen_se": chosen_error,
                "rejected": rejected,
                "rejected_se": rejected_error,
                "won": sum(a > b for a, b in pairs) / len(pairs),
            }
    return compared


def _needs(config: Config) -> tuple[str, ...]:
    return ("tokenizer", *among(config, "tokens"), *begins_with(config, "policy"), "reward", "ppo")


def _settings(config: Config) -> dict[str, Any]:
    online = result_settings(config.online)
    return {"online": online, "reward": reward.settings(config), "ppo": ppo.settings(config)}


def _sources(config: Config) -> dict[str, str]:
    given = _labels_file(config)
    if given and given.exists():
        read_labels(given)  # a wrong file is found before anything runs
    return {}


def _labels_file(config: Config) -> Path | None:
    return Path(located(config.online.labels)) if config.online.labels else None


def _work(context: Context) -> Result:
    """Run the missing rounds; returns the figures of all."""
    config = context.config
    rounds = list[dict[str, Any]]()
    for number in range(1, config.online.rounds + 1):
        if number > 1 and not _anything_new(context, number):
            context.journal.event("note", stage="online", why=f"round {number - 1} left no pattern and no label is new")
            break
        done = {
            stage.name.rsplit("/", 1)[-1]: run_stage(stage, _of_round(config, number), context.run_dir, context.journal)
            for stage in round_stages(number)
        }
        done.setdefault("ppo", context.upstream["ppo"])
        rounds.append(_told(context, number, done))
    path = context.folder / "online.json"
    write_text_atomic(path, json.dumps(rounds, indent=1, ensure_ascii=False, allow_nan=False))
    last = rounds[-1]
    summary = {
        "rounds": len(rounds),
        "patterns": [[pattern["shown"] for pattern in row["found"]] for row in rounds],
        "reward": last["ppo"]["reward"],
        "kl": last["ppo"]["kl"],
        "model": last["model"],
        "reward_model": last["reward_model"],
    }
    return Result([path], {"summary": summary})


def _of_round(config: Config, number: int) -> Config:
    """Every round draws other prompts and samples."""
    return config.model_copy(update={"seed": config.seed + number - 1})


def _anything_new(context: Context, number: int) -> bool:
    patches = context.of(_name(number - 1, "patterns")) / PATCHES
    labels = _labels_file(context.config)
    return any(read_jsonl(patches)) or (labels is not None and labels.is_file())


def _told(context: Context, number: int, done: dict[str, Manifest]) -> dict[str, Any]:
    patterns = json.loads((context.of(_name(number, "patterns")) / PATTERNS).read_text(encoding="utf-8"))
    ppo_figures = {k: v for k, v in done["ppo"].metrics["summary"].items() if k in _PPO_FIGURES}
    models = {"model": f"{_name(number, 'ppo')}/model", "reward_model": f"{_name(number, 'reward')}/model"}
    row = {**patterns, "ppo": ppo_figures, **models}
    if "reward" in done:
        row["compared"] = done["reward"].metrics["compared"]
    return row


STAGE = Stage("online", _needs, _settings, _work, _sources, trains=True, reads=READS)

if __name__ == "__main__":
    run_job("online_rlhf", [STAGE])
