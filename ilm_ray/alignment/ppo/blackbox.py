"""The black box of PPO: an iteration's experience as one Parquet file, and its arithmetic done again from there.

`<run>/ppo/rollouts/iteration-NNNNNN.parquet`, a row a rollout. Outputs of the groups: iteration, version, prompt_id,
domain, prompt, response (token ids), row (see `Prompt`), mask, behaviour, old_logprob, ref_logprob, value (one number a
response token), score and its parts by name. Derived: kl, reward, advantage, return, weight, trained. The settings of
the arithmetic and the losses are in the metadata.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilm_ray.alignment.ppo import rollout_file
from ilm_ray.alignment.ppo.assemble import Derived, GroupOutputs, derive, losses, one_a_domain_first
from ilm_ray.base.errors import UserError
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.chat import AnyTokenizer

SETTINGS, LOSSES = b"ilm_ray.ppo", b"ilm_ray.losses"
ARITHMETIC = (
    "discount", "gae_lambda", "kl_coefficient", "kl_estimator", "reward_clip", "normalize_advantages", "clip_range",
    "value_clip", "estimator", "answers_per_prompt", "skip_equal_groups", "clip_range_high", "ratio", "loss_mean",
    "kl_in", "overlong_buffer", "overlong_penalty", "max_new_tokens", "correction", "correction_level",
    "correction_bound",
)  # fmt: skip
TOLERANCE = 1e-6
TOKENS_SHOWN = 32
TEXT_SHOWN = 600  # characters


@dataclass(frozen=True)
class Box:
    """The file of an iteration, read back."""

    iteration: int
    ppo: PPOConfig
    outputs: GroupOutputs
    derived: Derived
    losses: dict[str, float]


@dataclass(frozen=True)
class ReplayDifference:
    """A recorded figure that the arithmetic, done again, does not give. place: a rollout and a token."""

    what: str
    place: str
    recorded: float
    again: float


def path_of(ppo_folder: Path, iteration: int) -> Path:
    """Path of an iteration's experience in the folder of the PPO stage."""
    return ppo_folder / "rollouts" / f"iteration-{iteration:06d}.parquet"


def write(ppo_folder: Path, iteration: int, ppo: PPOConfig, outputs: GroupOutputs, derived: Derived) -> None:
    """Write the iteration's file in one step."""
    rolled, count = outputs.rolled, len(outputs.scores)
    per_token = {
        "old_logprob": outputs.old,
        "ref_logprob": outputs.reference,
        "value": outputs.values,
        "kl": derived.kl,
        "reward": derived.rewards,
        "advantage": derived.advantages,
        "return": derived.returns,
        "weight": derived.weights,
    }
    columns: dict[str, pa.Array] = {
        "iteration": pa.array([iteration] * count, pa.int32()),
        **rollout_file.columns(rolled),
        "score": pa.array(outputs.scores, pa.float64()),
        "parts": pa.array([list(p.items()) for p in outputs.parts], pa.map_(pa.string(), pa.float64())),
        "mask": rollout_file.marks(outputs.masks),
        "trained": rollout_file.marks(derived.masks),
        **{name: rollout_file.numbers(parts) for name, parts in per_token.items()},
    }
    metadata = {
        SETTINGS: ppo.model_dump_json(include=set(ARITHMETIC)),
        LOSSES: json.dumps(losses(ppo, outputs, derived)),
    }
    rollout_file.write_table(path_of(ppo_folder, iteration), pa.table(columns, metadata=metadata))


def drop_from(ppo_folder: Path, iteration: int) -> None:
    """Remove the files of `iteration` and later."""
    for path in sorted((ppo_folder / "rollouts").glob("iteration-*.parquet")):
        if path >= path_of(ppo_folder, iteration):
            path.unlink()


def read(ppo_folder: Path, iteration: int) -> Box:
    """Raises UserError where there is no such iteration or its file cannot be read."""
    path = path_of(ppo_folder, iteration)
    if not path.exists():
        there = sorted((ppo_folder / "rollouts").glob("iteration-*.parquet"))
        known = f"{there[0].stem} to {there[-1].stem}" if there else "none"
        raise UserError(f"{path} does not exist (there: {known}); give --iteration one of them, counted from 0")
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata
        settings, recorded_losses = (json.loads(metadata[key]) for key in (SETTINGS, LOSSES))
        rows = {name: table[name].to_pylist() for name in table.column_names}
        outputs = GroupOutputs(
            rollout_file.rollouts_of(rows),
            rollout_file.masks(rows["mask"]),
            rollout_file.tensors(rows["old_logprob"]),
            rollout_file.tensors(rows["ref_logprob"]),
            rollout_file.tensors(rows["value"]),
            rows["score"],
            [dict(parts) for parts in rows["parts"]],
        )
        names = ("kl", "reward", "advantage", "return", "weight")
        kl, rewards, advantages, returns, weights = (rollout_file.tensors(rows[name]) for name in names)
        derived = Derived(kl, rewards, advantages, returns, weights, rollout_file.masks(rows["trained"]))
        return Box(iteration, PPOConfig.model_validate(settings), outputs, derived, recorded_losses)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); it was not written by PPO") from None


def replay(box: Box) -> tuple[dict[str, float], list[ReplayDifference]]:
    """KL, rewards, GAE and losses again: the largest difference of each, and the first place where it is too large."""
    again = derive(box.ppo, box.outputs)
    largest: dict[str, float] = {}
    differences: list[ReplayDifference] = []
    for what in ("kl", "rewards", "advantages", "returns", "weights", "masks"):
        pairs = [(a.float(), b.float()) for a, b in zip(getattr(box.derived, what), getattr(again, what), strict=True)]
        largest[what] = max(float((a - b).abs().max()) for a, b in pairs)
        for number, (recorded, now) in enumerate(pairs):
            wrong = ((recorded - now).abs() > TOLERANCE).nonzero()
            if len(wrong):
                token = int(wrong[0])
                place = f"rollout {number} ({box.outputs.rolled.prompts[number].id}), response token {token}"
                differences.append(ReplayDifference(what, place, float(recorded[token]), float(now[token])))
                break
    for what, value in losses(box.ppo, box.outputs, again).items():
        largest[what] = abs(value - box.losses[what])
        if largest[what] > TOLERANCE:
            differences.append(ReplayDifference(what, "mean over all tokens", box.losses[what], value))
    return largest, differences


def replay_lines(largest: dict[str, float], differences: list[ReplayDifference]) -> Iterator[str]:
    """For people: how far the figures computed again lie from the recorded ones, and where they differ first."""
    yield "done again from the file, largest difference: " + ", ".join(f"{k} {v:.3g}" for k, v in largest.items())
    for d in differences:
        yield f"  {d.what} differ first at {d.place}: recorded {d.recorded:.7g}, again {d.again:.7g}"


def lines(box: Box, tokenizer: AnyTokenizer, samples: int) -> Iterator[str]:
    """`samples` rollouts of each domain for people: prompt, answer, and the numbers of its first tokens."""
    outputs, derived, rolled = box.outputs, box.derived, box.outputs.rolled
    yield f"iteration {box.iteration}: {len(outputs.scores)} rollouts by weight version {rolled.version}"
    left = dict.fromkeys((p.domain for p in rolled.prompts), samples)
    for number in one_a_domain_first(rolled, len(outputs.scores)):
        prompt, response = rolled.prompts[number], rolled.responses[number]
        if not left[prompt.domain]:
            continue
        left[prompt.domain] -= 1
        yield ""
        score = outputs.scores[number]
        told = "none" if math.isnan(score) else f"{score:.4f}"
        yield f"{prompt.domain}  {prompt.id}  score {told}  {len(response)} tokens"
        yield "  parts: " + ", ".join(f"{name} {value:.4g}" for name, value in outputs.parts[number].items())
        if (metadata := json.loads(prompt.row).get("metadata")) is not None:
            yield f"  metadata: {json.dumps(metadata, ensure_ascii=False)[:TEXT_SHOWN]}"
        yield f"  prompt: {tokenizer.decode(prompt.ids)[:TEXT_SHOWN]}"
        yield f"  answer: {tokenizer.decode(response)[:TEXT_SHOWN]}"
        yield f"  {'token':<16}{'kl':>10}{'reward':>10}{'value':>10}{'advantage':>11}{'return':>10}"
        table = [part[number].tolist() for part in (derived.kl, derived.rewards, outputs.values)]
        table += [part[number].tolist() for part in (derived.advantages, derived.returns)]
        for ids, kl, reward, value, advantage, back in list(zip(response, *table, strict=True))[:TOKENS_SHOWN]:
            word = repr(tokenizer.decode([ids]))[1:-1][:15]
            yield f"  {word:<16}{kl:>10.4f}{reward:>10.4f}{value:>10.4f}{advantage:>11.4f}{back:>10.4f}"
        if len(response) > TOKENS_SHOWN:
            yield f"  ... {len(response) - TOKENS_SHOWN} more"


def summary(box: Box) -> dict[str, Any]:
    """The iteration in a few figures."""
    scores = [score for score in box.outputs.scores if not math.isnan(score)]
    return {
        "iteration": box.iteration,
        "version": box.outputs.rolled.version,
        "rollouts": len(box.outputs.scores),
        "reward": sum(scores) / max(len(scores), 1),
        **box.losses,
    }
