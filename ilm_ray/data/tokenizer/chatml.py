"""ChatML (report section 4.1): conversations as tokens, and which of them the assistant wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

from ilm_ray.base.errors import UserError

ROLES = ("system", "user", "assistant", "environment")
TOOLS = ("interpreter", "plugin")
NAMED_ROLES = ("system", "environment")


class Action(TypedDict):
    """What the assistant hands to a tool: code for the `interpreter`, or a call of a `plugin` as JSON."""

    name: str
    content: str


class Message(TypedDict):
    """One turn. `environment` carries what a tool or code interpreter answered.

    name: the tool that a system message describes or an environment message comes from; action: ends an assistant's
    message.
    """

    role: str
    content: str
    name: NotRequired[str]
    action: NotRequired[Action]


class ChatVocabulary(Protocol):
    """The part of a tokenizer that conversations need: `Tokenizer` of `tokenizer.py`, or one read from its files."""

    bos_id: int
    im_start_id: int
    im_end_id: int

    def encode(self, text: str, /) -> list[int]: ...

    def special(self, name: str, /) -> int: ...


class ChatTokens(NamedTuple):
    """`loss_mask` is 1 exactly on the assistant's content, its action and the <|im_end|> after them; as long as
    `ids`."""

    ids: list[int]
    loss_mask: list[int]


def encode_chat(tokenizer: ChatVocabulary, messages: Sequence[Message], generation_prompt: bool = False) -> ChatTokens:
    """`<s>`, then for each message `<|im_start|>role\\ncontent<|im_end|>\\n`.

    With a tool, as the released models have it: `<|im_start|>role name=<|plugin|>\\ncontent<|im_end|>\\n`, and
    `content<|action_start|><|plugin|>\\naction<|action_end|><|im_end|>\\n` for an assistant's.
    generation_prompt: ends with `<|im_start|>assistant\\n`, where the assistant goes on. Content is encoded apart from
    what stands around it, so training sees the borders that generation makes, and no content can close its message.
    Raises UserError for an unknown role or tool, a content that is no text, and a tool where it has no place.
    """
    ids, mask = [tokenizer.bos_id], [0]
    newline = tokenizer.encode("\n")
    check_messages(messages)
    for message in messages:
        role, name, action = message["role"], message.get("name"), message.get("action")
        head = [tokenizer.im_start_id, *tokenizer.encode(f"{role} name=" if name else f"{role}\n")]
        if name:
            head += [tokenizer.special(f"<|{name}|>"), *newline]
        body = tokenizer.encode(message["content"])
        if action:
            body += [tokenizer.special("<|action_start|>"), tokenizer.special(f"<|{action['name']}|>"), *newline]
            body += [*tokenizer.encode(action["content"]), tokenizer.special("<|action_end|>")]
        body.append(tokenizer.im_end_id)
        ids += head + body + newline
        mask += [0] * len(head) + [int(role == "assistant")] * len(body) + [0] * len(newline)
    if generation_prompt:
        head = [tokenizer.im_start_id, *tokenizer.encode("assistant\n")]
        ids += head
        mask += [0] * len(head)
    return ChatTokens(ids, mask)


def plain_text(decoded: str) -> str:
    """A decoded conversation for people: no special tokens, no role names; messages one after the other."""
    opened = re.sub(r"<\|im_start\|>[a-z]+(?: name=<\|[a-z]+\|>)?\n", "", decoded)
    acted = re.sub(r"<\|action_start\|><\|[a-z]+\|>", "", opened)
    return re.sub(r"<\|im_end\|>\n?|<\|action_end\|>|</?s>", "\n", acted).strip()


def check_messages(messages: Any) -> None:
    """Raises UserError where `encode_chat` would."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise UserError("the messages must be a list")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise UserError(f"message {number} must be an object with role and content")
        _check(message, number)


def _check(message: Mapping[str, Any], number: int) -> None:
    role, name, action = message.get("role"), message.get("name"), message.get("action")
    if role not in ROLES or not isinstance(message.get("content"), str):
        raise UserError(f"message {number}: role '{role}' must be one of {', '.join(ROLES)} and its content a text")
    if name and (name not in TOOLS or role not in NAMED_ROLES):
        raise UserError(
            f"message {number}: name '{name}' must be {' or '.join(TOOLS)}, and its role {' or '.join(NAMED_ROLES)}"
        )
    if action and not (
        role == "assistant"
        and isinstance(action, dict)
        and action.get("name") in TOOLS
        and isinstance(action.get("content"), str)
    ):
        raise UserError(
            f"message {number}: action must be {{name: {' or '.join(TOOLS)}, content: text}}, of an assistant's message"
        )
