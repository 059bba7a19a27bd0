"""Ask a language model behind an OpenAI-compatible endpoint. What it says is text to read, and nothing acts on it."""

import json
import os
import urllib.request

KEY = "ILM_RAY_OPINION_KEY"  # environment variable with the endpoint's key; none is sent where it is unset
_LONGEST_ANSWER = 1 << 20  # bytes


class NoAnswer(RuntimeError):
    """The endpoint gave no answer; the message says why."""


def ask(url: str, model: str, system: str, user: str, max_tokens: int, timeout_s: float) -> str:
    """The answer's text, greedily decoded. Raises NoAnswer. url: base of the API, such as http://host:8000/v1."""
    body = {
        "model": model,
        "temperature": 0.0,
        "max_tokens": max_tokens,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return str(json.loads(answer.read(_LONGEST_ANSWER))["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:  # URLError is an OSError
        raise NoAnswer(f"{type(error).__name__}: {error}") from None
