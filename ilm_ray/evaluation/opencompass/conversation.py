"""Sends a conversation with calls to an endpoint: as ids where the tokenizer is known, else as messages."""

from collections.abc import Sequence
from typing import Any

from ilm_ray.base.http import HttpError, comes_later
from ilm_ray.data.tokenizer.chatml import encode_chatml
from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.evaluation.opencompass.endpoint import ANSWER_SHARE, TURN_TOKENS, ContextWindow, Endpoint
from ilm_ray.evaluation.programs.interpreter import written

SPECIALS = ("<s>", "<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>")


def reply(endpoint: Endpoint, window: ContextWindow, name: str, messages: Sequence[Message], max_out_len: int) -> str:
    """The likeliest reply to a conversation, with the special tokens of a call.

    Where the tokenizer is known and has those of InternLM2, the conversation is sent as ids, as it was trained: chat
    routes take no calls (vLLM drops them). Elsewhere a call is text in the content. Raises RuntimeError where the
    endpoint refuses such a conversation.
    """
    room = min(max_out_len, window.context // ANSWER_SHARE)
    fitted = fit(messages, window, window.context - room)
    body: dict[str, Any] = {
        "model": name, "max_tokens": room, "temperature": 0.0, "skip_special_tokens": False,
        "stop": ["<|action_end|>", "<|im_end|>"],
    }  # fmt: skip
    if all(window.special(special) is not None for special in SPECIALS):
        ids = encode_chatml(_Vocabulary(window), fitted, generation_prompt=True).ids
        return str(endpoint.post("/v1/completions", body | {"prompt": [ids]})["choices"][0]["text"])
    plain = [{"role": m["role"], "content": written(m)} | ({"name": m["name"]} if "name" in m else {}) for m in fitted]
    try:
        answer = endpoint.post("/v1/chat/completions", body | {"messages": plain})
    except HttpError as error:
        if error.status is not None and not comes_later(error.status):
            raise RuntimeError(
                "this endpoint takes no conversation with an interpreter's `environment` turns; serve a model with "
                f"InternLM2's chat template, or name its tokenizer (benchmarks.tokenizer): {error}"
            ) from error
        raise
    return answer["choices"][0]["message"]["content"] or ""


def fit(messages: Sequence[Message], window: ContextWindow, room: int) -> list[Message]:
    """The conversation without its first shots, or, where that is still too long, the middle of its longest content."""
    left = list(messages)
    while _length(left, window) > room:
        questions = [i for i, message in enumerate(left) if message["role"] == "user"]
        if len(questions) > 1:
            left[questions[0] : questions[1]] = []
            continue
        longest = max(range(len(left)), key=lambda i: len(left[i]["content"]))
        over = _length(left, window) - room
        content = left[longest]["content"]
        shorter = window.fit(content, max(window.count(content) - over, 2))
        if len(shorter) >= len(content):
            break  # calls alone fill the context: the endpoint says so
        left[longest] = {**left[longest], "content": shorter}
    return left


def _length(messages: Sequence[Message], window: ContextWindow) -> int:
    """Tokens of the messages and of the beginning of the reply."""
    return sum(window.count(written(message)) + TURN_TOKENS for message in messages) + TURN_TOKENS


class _Vocabulary:
    """Gives `encode_chatml` the methods that it wants of a tokenizer."""

    def __init__(self, window: ContextWindow) -> None:
        self.window = window
        self.bos_id, self.im_start_id, self.im_end_id = map(self.special, SPECIALS[:3])

    def encode(self, text: str) -> list[int]:
        return self.window.encode(text)

    def special(self, name: str) -> int:
        token = self.window.special(name)
        if token is None:
            raise KeyError(name)
        return token
