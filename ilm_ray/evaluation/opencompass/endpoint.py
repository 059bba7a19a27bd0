"""An OpenAI-compatible endpoint, and the context window of the model behind it."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ilm_ray.base.http import post_json

ANSWER_SHARE = 4  # a quarter of the context at most is kept free for the answer
TURN_TOKENS = 8  # what a chat template sets around a message
BYTES_A_TOKEN = 3  # where no tokenizer is known: English has more, Chinese a little less


class Endpoint:
    """Posts JSON, again where that may help (`ilm_ray/base/http.py`).

    key: sent as the bearer, and taken out of the server's error messages.
    """

    def __init__(self, url: str, timeout_s: float, key: str | None = None) -> None:
        self.url, self.timeout_s, self._key = url.rstrip("/"), timeout_s, key

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's JSON. Raises RuntimeError with the server's message."""
        answer: dict[str, Any] = post_json(f"{self.url}{route}", body, self.timeout_s, self._key)
        return answer


class ContextWindow:
    """Counts and cuts text in tokens of the model; without a tokenizer file both are estimates from bytes."""

    def __init__(self, tokenizer: str | None, context: int) -> None:
        self.context = context
        self.cut = 0  # prompts that did not fit
        self.bos: int | None = None
        self._tokenizer: Tokenizer | None = None
        if tokenizer is not None:
            self._tokenizer = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
            self._tokenizer.encode_special_tokens = True  # names of special tokens in a benchmark are text
            self.bos = self._tokenizer.token_to_id("<s>")

    def count(self, text: str) -> int:
        if self._tokenizer is None:
            return len(text.encode()) // BYTES_A_TOKEN + 1
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone. Only with a tokenizer."""
        assert self._tokenizer is not None
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def special(self, name: str) -> int | None:
        """Id of a special token, None where there is no such token or no tokenizer."""
        return None if self._tokenizer is None else self._tokenizer.token_to_id(name)

    def fit(self, text: str, room: int) -> str:
        """`text`, or its two ends without the middle where it is longer than `room` tokens."""
        count = self.count(text)
        if count <= room:
            return text
        self.cut += 1
        if self._tokenizer is None:
            kept = int(len(text) * room / count) // 2
            return text[:kept] + text[-kept:]
        ids, kept = self.encode(text), room // 2
        # Two ends can decode to a token or two more where a word was cut.
        while True:
            ends = self._tokenizer.decode(ids[:kept]) + self._tokenizer.decode(ids[-kept:])
            if kept == 1 or self.count(ends) <= room:
                return ends
            kept -= 1
