"""A second opinion on a failure from a language model behind an OpenAI-compatible endpoint. Nothing acts on it."""

import json
import os
import urllib.request

from ilm_ray.pretrain.diagnosis import Diagnosis

KEY = "ILM_RAY_OPINION_KEY"  # environment variable with the endpoint's key; none is sent where it is unset
TIMEOUT_S = 30.0
_LONGEST_ANSWER = 1 << 20

_ASK = (
    "A distributed training run failed. Rules found what follows from traces of its ranks. In at most five sentences: "
    "is that the likely cause, what else could it be, and what should be looked at first?"
)


def second_opinion(url: str, model: str, found: Diagnosis) -> str:
    """The answer's text; where the endpoint does not give one, a line that says why.

    url: base of the API, such as http://host:8000/v1. Sent are the category and the evidence lines, no data.
    """
    body = {
        "model": model,
        "temperature": 0.0,
        "max_tokens": 300,
        "messages": [
            {"role": "system", "content": _ASK},
            {"role": "user", "content": "\n".join([found.line(), *found.evidence])},
        ],
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return str(json.loads(answer.read(_LONGEST_ANSWER))["choices"][0]["message"]["content"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:  # URLError is an OSError
        return f"no second opinion: {type(error).__name__}: {error}"
