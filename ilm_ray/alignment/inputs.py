"""What people hand to alignment: conversations, preference pairs, prompts; looked through before anything is run.

JSON Lines. All functions raise UserError with setting, file and line, or where the setting is not set.
"""

from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.base.places import located
from ilm_ray.base.rows import read_rows
from ilm_ray.config import Config
from ilm_ray.config.named_data import not_set
from ilm_ray.data.tokenizer.messages import check_messages


def chat_file(config: Config) -> Path:
    """The conversations to train on."""
    return _file(config.sft.data, "sft.data")


def preference_file(config: Config) -> Path:
    """The preference pairs to train on."""
    return _file(config.reward.data, "reward.data")


def prompt_file(config: Config) -> Path:
    """The prompts that PPO answers."""
    return _file(config.ppo.prompts, "ppo.prompts")


def chat_rows(config: Config) -> list[JsonObject]:
    """messages."""
    path, setting = chat_file(config), "sft.data"
    rows = read_rows(path, ("messages",), setting)
    for number, row in enumerate(rows, 1):
        _check(row["messages"], f"{setting}: {path} line {number}")
    return rows


def preference_rows(config: Config) -> list[JsonObject]:
    """domain, prompt, chosen, rejected, and split where it has one."""
    path, setting = preference_file(config), "reward.data"
    rows = read_rows(path, ("domain", "prompt", "chosen", "rejected"), setting)
    known = config.reward.system_prompts
    for number, row in enumerate(rows, 1):
        where = f"{setting}: {path} line {number}"
        _check(row["prompt"], where)
        if not isinstance(row["domain"], str) or row["domain"] not in known:
            raise UserError(
                f"{where}: domain '{row['domain']}' has no system prompt; give reward.system_prompts with all domains "
                f"(now {', '.join(known)})"
            )
        if not (isinstance(row["chosen"], str) and isinstance(row["rejected"], str)):
            raise UserError(f"{where}: chosen and rejected must be texts")
    return rows


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


def _file(path: str | None, setting: str) -> Path:
    if path is None:
        raise not_set(setting)
    return Path(located(path))


def _check(messages: Any, where: str) -> None:
    try:
        check_messages(messages)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
