"""Ask a language model behind an OpenAI-compatible endpoint. Its answers are text to read, and nothing acts on them."""

import os

from ilm_ray.base.http import HttpError, post_json

KEY = "ILM_RAY_OPINION_KEY"  # environment variable with the endpoint's key; none is sent where it is unset
_LONGEST_ANSWER = 1 << 20  # bytes


class NoAnswer(RuntimeError):
    """The endpoint gave no answer; the message says why."""


def ask(url: str, model: str, system: str, user: str, max_tokens: int, timeout_s: float) -> str:
    """The answer's text, greedily decoded. url: base of the API, such as http://host:8000/v1; timeout_s: of all
    attempts together. Raises NoAnswer."""
    body = {
        "model": model,
        "temperature": 0.0,
        "max_tokens": max_tokens,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
    }
    route = f"{url.rstrip('/')}/chat/completions"
    try:
        answer = post_json(route, body, timeout_s, os.environ.get(KEY), within_s=timeout_s, largest=_LONGEST_ANSWER)
        return str(answer["choices"][0]["message"]["content"])
    except (HttpError, KeyError, IndexError, TypeError) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from None
