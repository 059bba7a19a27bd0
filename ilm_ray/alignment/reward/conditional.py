"""The conditional reward model's input (report section 4.2.1): a system prompt per preference domain, a final token.

Only the reward model sees the condition: policy, critic and reference work on the sequence without it. Its scores are
valid only under the conditions that it was trained with, so these are saved beside the weights, and the weights carry
their hash.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.data.tokenizer.chat import AnyTokenizer, system_prefix
from ilm_ray.model.weights import read_about

CONDITIONS = "conditions.json"  # in the model's folder
HASH = "conditions"  # in the header of the weights


class Conditions(NamedTuple):
    """Conditions of a reward model. prompts: domain -> its condition, empty for a model that was trained without.

    reward_id: the token behind the conversation at which it is read; None: it is read at the conversation's last token.
    """

    prompts: dict[str, str]
    reward_id: int | None


def condition_prefix(tokenizer: AnyTokenizer, system_prompt: str) -> list[int]:
    """Tokens of the system message that names the criterion, without the document's begin token."""
    return system_prefix(tokenizer, system_prompt)


def conditioned(
    prefix: list[int], ids: list[int], reward_id: int | None, context: int, begins: bool = True
) -> list[int]:
    """begin token + condition + conversation + the token at which the reward is read. An empty prefix: no condition.
    reward_id: None for a model that is read at the conversation's last token.

    A conversation of more than `context` tokens loses its beginning: the answer stands at its end. begins: False for a
    chat template that writes no begin token.
    """
    room = room_behind(prefix, reward_id, context, begins)
    return ids[:begins] + prefix + ids[begins:][-room:] + ([] if reward_id is None else [reward_id])


def room_behind(prefix: list[int], reward_id: int | None, context: int, begins: bool) -> int:
    """Tokens of a conversation, its begin token apart, that fit behind a condition. Raises UserError for none."""
    room = context - len(prefix) - (reward_id is not None) - begins
    if room < 1:
        raise UserError(
            f"reward.context={context} has no room for a conversation behind a condition of {len(prefix)} tokens; "
            f"raise it or shorten reward.system_prompts"
        )
    return room


def conditions_hash(tokenizer: AnyTokenizer, system_prompts: Mapping[str, str]) -> str:
    """SHA-256 of the conditions as the model reads them: domains, prompts, their tokens and the reward token."""
    return _digest(_content(tokenizer, system_prompts))


def save_conditions(folder: Path, tokenizer: AnyTokenizer, system_prompts: Mapping[str, str]) -> Path:
    """Write the conditions into a reward model's folder; returns the file."""
    path = folder / CONDITIONS
    write_text_atomic(path, json.dumps(_content(tokenizer, system_prompts), indent=1, ensure_ascii=False))
    return path


def unconditional(reward_id: int | None) -> tuple[str, str]:
    """The conditions of a reward model that was trained without any: text of the file, and their hash."""
    content: dict[str, Any] = {"system_prompts": {}, "tokens": {}, "reward_token": reward_id}
    return json.dumps(content, indent=1), _digest(content)


def load_conditions(folder: Path, tokenizer: AnyTokenizer) -> Conditions:
    """The conditions of the reward model in `folder`.

    Raises UserError where there are none, where they are not those that the weights were trained with, or where
    `tokenizer` is another than at training.
    """
    path = folder / CONDITIONS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        prompts = {str(domain): str(prompt) for domain, prompt in content["system_prompts"].items()}
        reward_id = content["reward_token"]
        if not isinstance(reward_id, int | None):
            raise ValueError("reward_token is no number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); run the reward stage again or copy the folder "
            "anew"
        ) from None
    trained_hash, file_hash = read_about(folder).get(HASH), _digest(content)
    if trained_hash != file_hash:
        raise UserError(
            f"{path} has hash {file_hash[:12]}, the weights beside it were trained with conditions of hash "
            f"{trained_hash[:12] if trained_hash else 'none'}; copy both from one folder or run the reward stage again"
        )
    if prompts and content != _content(tokenizer, prompts):
        raise UserError(
            f"{path}: the run's tokenizer gives the conditions other tokens than at training; use the tokenizer that "
            "the reward model was trained with, or run the reward stage again"
        )
    return Conditions(prompts, reward_id)


def carried_conditions(folder: Path) -> tuple[str, str] | None:
    """The conditions that an exported reward model brings: text of the file, and their hash; None where it has none.

    Raises UserError where they are no conditions. Whether a run's tokenizer reads them as at training is found by
    `load_conditions`.
    """
    path = folder / CONDITIONS
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if not all(isinstance(prompt, str) for prompt in content["system_prompts"].values()):
            raise ValueError("a system prompt is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); copy the folder anew") from None
    return text, _digest(content)


def _content(tokenizer: AnyTokenizer, system_prompts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "system_prompts": dict(system_prompts),
        "tokens": {domain: condition_prefix(tokenizer, text) for domain, text in system_prompts.items()},
        "reward_token": tokenizer.reward_id,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
