"""Messages of a conversation: their form, and the check that every stage makes before it reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from ilm_ray.base.errors import UserError

ROLES = ("system", "user", "assistant", "environment")
TOOLS = ("interpreter", "plugin")
NAMED_ROLES = ("system", "environment")


class Action(TypedDict):
    """Call of a tool by the assistant: code for the `interpreter`, or a call of a `plugin` as JSON."""

    name: str
    content: str


class Message(TypedDict):
    """One turn. `environment` carries the answer of a tool or code interpreter.

    content: a text, or a list of parts {type: "text", text: ...}, which are joined. name: the tool that a system
    message describes or an environment message comes from; action: ends an assistant's message.
    """

    role: str
    content: Any
    name: NotRequired[str]
    action: NotRequired[Action]


class ChatTokens(NamedTuple):
    """`loss_mask` is 1 exactly on the assistant's content, its action and the token that ends its turn; as long as
    `ids`."""

    ids: list[int]
    loss_mask: list[int]


def check_messages(messages: Any) -> None:
    """Raises UserError for an unknown role or tool, a content that is no text, and a tool where it has no place."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise UserError("the messages must be a list")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise UserError(f"message {number} must be an object with role and content")
        _check(message, number)


def checked_messages(messages: Any) -> list[Message]:
    """The messages with every content as one text. Raises UserError as `check_messages` does."""
    check_messages(messages)
    return [cast(Message, {**m, "content": _text(m["content"], number)}) for number, m in enumerate(messages, 1)]


def _text(content: Any, number: int) -> str:
    """Raises UserError where a part is no text: this system has no place for pictures and sounds."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise UserError(f"message {number}: a part of type '{kind}' is no text; leave it out")
    return "".join(part["text"] for part in content)


def _check(message: Mapping[str, Any], number: int) -> None:
    role, name, action = message.get("role"), message.get("name"), message.get("action")
    if role not in ROLES or not isinstance(message.get("content"), str | list):
        raise UserError(f"message {number}: role '{role}' must be one of {', '.join(ROLES)} and its content a text")
    _text(message["content"], number)
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
