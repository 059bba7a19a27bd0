"""The part of OpenAI's protocol that the embedded server speaks: requests checked, answers built. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST_LOGPROBS = 20
MOST_STOPS = 64  # looked for at every token
_Prompt = str | list[int] | list[str] | list[list[int]]


class Refused(Exception):
    """An answer that is an error object: its HTTP status and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status

    def body(self) -> dict[str, Any]:
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.status}}


class StreamOptions(BaseModel):
    """`stream_options` of a request: whether the last event tells how many tokens there were."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """Fields of both kinds of requests; other fields are ignored, as in other servers."""

    model_config = ConfigDict(allow_inf_nan=False)  # JSON as Python reads it knows NaN, which no sampler does

    model: str
    n: Literal[1] = 1
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    skip_special_tokens: bool = True  # vLLM's name: whether <|action_start|> and the like are left out of the text

    def stops(self) -> list[str]:
        return [s for s in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if s]


class ChatRequest(GenerationRequest):
    """A request to /v1/chat/completions; `max_completion_tokens` goes before `max_tokens`, its older name."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_LOGPROBS)


class CompletionRequest(GenerationRequest):
    """A request to /v1/completions: texts or token ids; `echo` with `logprobs` scores what was given."""

    prompt: _Prompt
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    add_special_tokens: bool = True  # vLLM's name: a text begins as documents of the model's training did
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


@dataclass(frozen=True)
class Token:
    """A token of an answer: its text, its log-probability (None for a text's first), the likeliest at its place."""

    text: str
    logprob: float | None
    top: Sequence[tuple[str, float]] = field(default_factory=tuple)


def checked(kind: type[ChatRequest] | type[CompletionRequest], body: Any, model: str) -> Any:
    """The request of a kind. Raises Refused."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise Refused(400, "the request holds half a character (a lone surrogate), or is nested too deeply") from None
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if request.model != model:
        raise Refused(404, f"the model '{request.model}' does not exist; this server has '{model}'")
    return request


def room(prompt_tokens: int, wanted: int | None, context: int) -> int:
    """New tokens that a request gets. Raises Refused where prompt and answer do not fit into the context."""
    left = context - prompt_tokens
    if prompt_tokens == 0:
        raise Refused(400, "the prompt is empty")
    if left < (1 if wanted is None else wanted):
        raise Refused(400, f"{prompt_tokens} prompt tokens and {wanted or 1} new ones exceed the context of {context}")
    return left if wanted is None else wanted


def sayable(text: str, stops: Sequence[str], ended: bool) -> tuple[str, bool]:
    """Returns (the part of an answer's text that may be sent already, whether a stop text has come).

    The end is held back while it may be a cut character or the beginning of a stop text.
    """
    positions = [at for stop in stops if (at := text.find(stop)) >= 0]
    if positions:
        return text[: min(positions)], True
    if ended:
        return text, False
    longest = len(text) + 1  # a stop text may be longer than all that has been said, up to a whole request
    held = max((n for stop in stops for n in range(1, min(len(stop), longest)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held].rstrip("\ufffd"), False


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts as every whole answer carries them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """The `logprobs` of a chat's choice: each token with the likeliest at its place."""

    def entry(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {"content": [entry(t.text, t.logprob) | {"top_logprobs": [entry(*pair) for pair in t.top]} for t in tokens]}


def completion_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """The `logprobs` of a completion's choice: parallel lists, with each token's offset in characters."""
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [t.text for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": [None if t.logprob is None else dict(t.top) | {t.text: t.logprob} for t in tokens],
        "text_offset": offsets[:-1],
    }


def envelope(kind: str, number: str, created: int, model: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The response object around the choices; `created` is in seconds since 1970."""
    return {"id": number, "object": kind, "created": created, "model": model, "choices": list(choices)}
