"""Messages of a conversation: their form, and the check that every stage makes before it reads them.

Two forms are read: our own, with `action` and the role `environment`, and OpenAI's, with `tool_calls` and the role
`tool`. `weight` (0 or 1) and `train` of an assistant's message say whether its tokens are learned from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.tool_calls import action_of, calls_of, check_calls

ROLES = ("system", "user", "assistant", "environment")
TOOL_ROLES = ("tool", "function")  # OpenAI's names of `environment`
TOOLS = ("interpreter", "plugin")
NAMED_ROLES = ("system", "environment")
LEARNING = ("weight", "train")
FIELDS = frozenset({"role", "content", "name", "action", "tool_calls", "function_call", "tool_call_id", *LEARNING})


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
    """`loss_mask` is 1 exactly on the content of each assistant's message that is learned from, its action and the
    token that ends its turn; as long as `ids`."""

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


def checked_messages(messages: Any, tool_calls: bool = False) -> list[Message]:
    """The messages in our own form, every content as one text, without `weight` and `train`.

    tool_calls: messages in OpenAI's form keep it, with arguments as objects, for a chat template that reads it. Raises
    UserError as `check_messages` does.
    """
    check_messages(messages)
    return [_plain(message, number, tool_calls) for number, message in enumerate(messages, 1)]


def learns_from(message: Mapping[str, Any]) -> bool:
    """Whether the tokens of a message, which was checked, are learned from."""
    wanted = message.get("train") if message.get("train") is not None else message.get("weight")
    return message["role"] == "assistant" and (wanted is None or bool(wanted))


def check_learnable(messages: Any) -> None:
    """As `check_messages`; and UserError unless there is an assistant's message to learn from."""
    check_messages(messages)
    if not any(learns_from(message) for message in messages):
        what = "none of its assistant's messages counts (weight, train)"
        if not any(message["role"] == "assistant" for message in messages):
            what = "it has no message of role 'assistant'" if messages else "it has no messages"
        raise UserError(f"nothing can be learned from the conversation: {what}; take it out")


def unread_fields(messages: Sequence[Mapping[str, Any]], template: str = "") -> Counter[str]:
    """Names of fields that have a value and that nothing reads, with their number; template: source of the chat
    template, which may read more of them."""
    return Counter(
        f"messages.{key}"
        for message in messages
        for key, value in message.items()
        if value is not None and key not in FIELDS and str(key) not in template
    )


def _plain(message: Mapping[str, Any], number: int, tool_calls: bool) -> Message:
    plain = {key: value for key, value in message.items() if key not in LEARNING}
    plain["content"] = "" if message.get("content") is None else _text(message["content"], number)
    calls = calls_of(message)
    if tool_calls and calls:
        plain["tool_calls"] = calls
    elif calls:
        plain["action"] = action_of(calls)
    if message["role"] in TOOL_ROLES and not tool_calls:
        plain |= {"role": "environment", "name": "plugin"}
    return cast(Message, plain)


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
    calls = message.get("tool_calls") or message.get("function_call")
    silent = message.get("content") is None and role == "assistant" and bool(calls)
    known = role in (*ROLES, *TOOL_ROLES)
    if not known or not (silent or isinstance(message.get("content"), str | list)):
        roles = ", ".join((*ROLES, TOOL_ROLES[0]))
        raise UserError(f"message {number}: role '{role}' must be one of {roles} and its content a text")
    if not silent:
        _text(message["content"], number)
    if name and role not in TOOL_ROLES and (name not in TOOLS or role not in NAMED_ROLES):
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
    if calls:
        if role != "assistant" or action:
            raise UserError(f"message {number}: tool_calls belong to an assistant's message without action; correct it")
        check_calls(message, number)
    _check_learning(message, number)


def _check_learning(message: Mapping[str, Any], number: int) -> None:
    weight, train = message.get("weight"), message.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise UserError(f"message {number}: weight is {weight!r}; it must be 0 or 1: a message is learned from or not")
    if train is not None and not isinstance(train, bool):
        raise UserError(f"message {number}: train is {train!r}; it must be true or false")
    if weight is not None and train is not None and bool(weight) != train:
        raise UserError(f"message {number}: weight {weight} and train {train} say different things; give one of them")
    if message["role"] != "assistant" and (weight or train):
        raise UserError(f"message {number}: only an assistant's message can be learned from; take weight and train out")
