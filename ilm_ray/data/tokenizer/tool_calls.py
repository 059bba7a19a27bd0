"""Calls of tools in OpenAI's form (`tool_calls`, and `function_call` of before), as InternLM2 writes them.

A call becomes an action of the plugin, `{"name": ..., "parameters": {...}}`; several at once become a list of these.
The exported chat template does the same, character for character (`huggingface.py`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ilm_ray.base.errors import UserError


def check_calls(message: Mapping[str, Any], number: int) -> None:
    """Raises UserError where a call has another form than OpenAI's; number: of the message."""
    calls, single = message.get("tool_calls"), message.get("function_call")
    if calls and single:
        raise UserError(f"message {number} has tool_calls and function_call; give one of them")
    if calls and not isinstance(calls, list):
        raise UserError(f"message {number}: tool_calls must be a list")
    for call in calls or [{"function": single}]:
        function = call.get("function") if isinstance(call, Mapping) else None
        kind = call.get("type", "function") if isinstance(call, Mapping) else None
        if kind != "function" or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(
                f'message {number}: a tool call must be {{"type": "function", "function": {{"name": ..., "arguments": '
                f"...}}}}; correct it"
            )
        if not isinstance(_object(function.get("arguments")), dict):
            raise UserError(
                f"message {number}: the arguments of tool call '{function['name']}' must be a JSON object; correct them"
            )


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message, which was checked, with arguments as objects; none where it calls nothing."""
    single = message.get("function_call")
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ([{"function": single}] if single else [])
    made = []
    for call in calls:
        function = {"name": call["function"]["name"], "arguments": _object(call["function"].get("arguments"))}
        made.append({**call, "type": "function", "function": function})
    return made


def action_of(calls: Sequence[Mapping[str, Any]]) -> Any:
    """The action that stands for checked calls."""
    functions = [call["function"] for call in calls]
    texts = [
        json.dumps({"name": function["name"], "parameters": function["arguments"]}, ensure_ascii=False)
        for function in functions
    ]
    return {"name": "plugin", "content": texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"}


def _object(arguments: Any) -> Any:
    """OpenAI writes arguments as JSON in a text; other data has them as an object. None where they are neither."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return dict(arguments) if isinstance(arguments, Mapping) else None
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None
