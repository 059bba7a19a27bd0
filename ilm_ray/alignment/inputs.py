"""The user's files for alignment, conversations, preference pairs and prompts, checked before anything runs.

JSON Lines. All functions raise UserError with setting, file and line, or where the setting is not set.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.base.places import located
from ilm_ray.base.rows import iter_rows, read_rows, require_splits
from ilm_ray.config import Config
from ilm_ray.config.alignment import SFTConfig
from ilm_ray.config.named_data import not_set
from ilm_ray.data.tokenizer.messages import check_learnable, check_messages, unread_fields

# Fields of pairs and prompts, those of patches of online rounds among them.
_READ = frozenset({"id", "domain", "prompt", "chosen", "rejected", "split", "metadata", "pattern", "made"})


def chat_file(config: Config) -> Path:
    """The conversations to train on."""
    return _file(config.sft.data, "sft.data")


def preference_file(config: Config) -> Path:
    """The preference pairs to train on."""
    return _file(config.reward.data, "reward.data")


def prompt_file(config: Config) -> Path:
    """The prompts that PPO answers."""
    return _file(config.ppo.prompts, "ppo.prompts")


def check_chats(config: Config) -> int:
    """Look through the conversations without keeping them; their number. Each has a message to learn from."""
    path, setting = chat_file(config), "sft.data"
    rows, splits = 0, set[str]()
    for rows, row in enumerate(iter_rows(path, ("messages",), setting), 1):
        _check(row["messages"], f"{setting}: {path} line {rows}", check_learnable)
        splits |= {row["split"]} if "split" in row else set()
    if splits:
        require_splits([{"split": split} for split in splits], setting)
    if rows < 2:
        raise UserError(f"{setting}: {path} has one row; give at least one to train on and one to measure with")
    return rows


def mixed_sequences(sft: SFTConfig) -> int:
    """Pre-training sequences of a step. Raises UserError where a share comes to less than half of one."""
    share = sft.pretrain_share
    wanted = sft.batch_tokens * share / (1 - share) / sft.context
    if share and round(wanted) == 0:
        enough = math.ceil(sft.context * (1 - share) / share / 2) + 1
        raise UserError(
            f"sft.pretrain_share={share} of sft.batch_tokens={sft.batch_tokens} comes to {wanted:.2f} sequences of "
            f"sft.context={sft.context} a step, so there would be none; raise sft.batch_tokens to {enough}, lower "
            "sft.context or set sft.pretrain_share=0"
        )
    return round(wanted)


def preference_rows(config: Config) -> Iterator[JsonObject]:
    """domain, prompt, chosen, rejected, and split where it has one; one row after the other."""
    path, setting = preference_file(config), "reward.data"
    known = config.reward.system_prompts
    for number, row in enumerate(iter_rows(path, ("domain", "prompt", "chosen", "rejected"), setting), 1):
        where = f"{setting}: {path} line {number}"
        _check(row["prompt"], where)
        if not isinstance(row["domain"], str) or row["domain"] not in known:
            raise UserError(
                f"{where}: domain '{row['domain']}' has no system prompt; give reward.system_prompts with all domains "
                f"(now {', '.join(known)})"
            )
        if not (isinstance(row["chosen"], str) and isinstance(row["rejected"], str)):
            raise UserError(f"{where}: chosen and rejected must be texts")
        yield row


def prompt_rows(config: Config) -> list[JsonObject]:
    """id, domain, prompt; where it has them split, and metadata (an object) for reward functions.

    The reward model sets the domains that there may be.
    """
    path, setting = prompt_file(config), "ppo.prompts"
    rows = read_rows(path, ("id", "domain", "prompt"), setting)
    for number, row in enumerate(rows, 1):
        _check(row["prompt"], f"{setting}: {path} line {number}")
        if not isinstance(row["domain"], str) or not isinstance(row["id"], str | int):
            raise UserError(f"{setting}: {path} line {number}: id must be a text or number, domain a text; correct it")
        if not isinstance(row.get("metadata", {}), dict):
            raise UserError(f"{setting}: {path} line {number}: metadata must be an object; correct it")
    return rows


def unread_notes(rows: Iterable[JsonObject], setting: str) -> list[str]:
    """For people: fields of prompts, and of their messages, that nothing reads; a line or none."""
    unread = Counter[str]()
    for row in rows:
        unread.update(unread_in(row))
    return [unread_note(setting, dict(sorted(unread.items())))] if unread else []


def unread_in(row: JsonObject) -> set[str]:
    """Fields of a preference pair or a prompt, and of its messages, that nothing reads."""
    fields = {key for key, value in row.items() if value is not None and key not in _READ}
    return fields | unread_fields(row["prompt"]).keys()


def unread_note(setting: str, fields: Mapping[str, int]) -> str:
    """fields: name -> rows that have it."""
    return f"fields of {setting} that nothing reads: " + ", ".join(
        f"{name} ({rows} rows)" for name, rows in fields.items()
    )


def _file(path: str | None, setting: str) -> Path:
    if path is None:
        raise not_set(setting)
    return Path(located(path))


def _check(messages: Any, where: str, check: Callable[[Any], None] = check_messages) -> None:
    try:
        check(messages)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
