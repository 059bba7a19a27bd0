"""The model under test as OpenCompass sees it: a base model that completes and scores text, a chat model that answers.

Both are clients of an OpenAI-compatible endpoint. OpenCompass's own API models cannot score perplexity, ask a hub for a
tokenizer, and sample at the server's default temperature unless told.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from opencompass.models.base import BaseModel
from opencompass.models.base_api import APITemplateParser, BaseAPIModel

from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.evaluation.opencompass.conversation import fit
from ilm_ray.evaluation.opencompass.endpoint import ANSWER_SHARE, TURN_TOKENS, ContextWindow, Endpoint

ROLES = {"HUMAN": "user", "BOT": "assistant", "SYSTEM": "system"}
META = {
    "round": [{"role": "HUMAN", "api_role": "HUMAN"}, {"role": "BOT", "api_role": "BOT", "generate": True}],
    "reserved_roles": [{"role": "SYSTEM", "api_role": "SYSTEM"}],
}
SEED = 1234  # where a benchmark wants drawn answers


@functools.cache
def window(tokenizer: str | None, context: int) -> ContextWindow:
    """The same object for all sets that a worker runs: a large vocabulary takes seconds to read."""
    return ContextWindow(tokenizer, context)


class ServedBase(BaseModel):
    """Completes text and scores it token by token through /v1/completions.

    path: the model's name at the endpoint; context: tokens of prompt and answer together. With `tokenizer`, the folder
    of a tokenizer.json, prompts are sent as ids with <s> in front, as the model was trained.
    """

    is_api = False

    def __init__(
        self, path: str, url: str, context: int, tokenizer: str | None, timeout_s: float, max_seq_len: int
    ) -> None:
        super().__init__(path=path, max_seq_len=max_seq_len, tokenizer_only=True)
        self.endpoint, self.window = Endpoint(url, timeout_s), window(tokenizer, context)

    def generate(self, inputs: list[str], max_out_len: int, stopping_criteria: list[str] | None = None) -> list[str]:
        """The likeliest continuation of each prompt, up to a stop string, `max_out_len` tokens or the context's end."""
        room = min(max_out_len, self.window.context // ANSWER_SHARE)
        prompts = [self._prompt(text, self.window.context - room) for text in inputs]
        body = {"max_tokens": room, "temperature": 0.0, "stop": stopping_criteria or None}
        return [choice["text"] for choice in self._complete(prompts, body)]

    def get_ppl(self, inputs: list[str], mask_length: list[int] | None = None) -> np.ndarray:
        """Mean negative log-probability in nats, float64 [n], as OpenCompass's Hugging Face model takes it: over all
        tokens but the first, divided by the count of all; with `mask_length` the first so many are left out."""
        losses = []
        for i, scores in enumerate(self._scores(inputs)):
            skip = mask_length[i] if mask_length else 0
            losses.append(-sum(scores[max(skip, 1) :]) / max(len(scores) - skip, 1))
        return np.array(losses)

    def get_loglikelihood(self, inputs: list[str], conts: list[str]) -> np.ndarray:
        """Log-probability in nats of each continuation after the text that its input begins with, float64 [n].

        That of the whole less that of the beginning: no token has to be told apart at the border. OpenCompass's Hugging
        Face model leaves out as many tokens at the *front* as the continuation has, so its figures differ.
        """
        before = [text.removesuffix(cont) for text, cont in zip(inputs, conts, strict=True)]
        whole, beginning = self._scores(inputs), self._scores(before)
        return np.array([sum(w) - sum(b) for w, b in zip(whole, beginning, strict=True)])

    def get_token_len(self, prompt: str) -> int:
        return self.window.count(prompt) + (self.window.bos is not None)

    def _prompt(self, text: str, room: int) -> str | list[int]:
        if self.window.bos is None:
            return self.window.fit(text, room)
        return [self.window.bos, *self.window.encode(self.window.fit(text, room - 1))]

    def _scores(self, inputs: list[str]) -> list[list[float]]:
        """Log-probability of every token of every prompt; 0 for the first, which has no context."""
        body = {"max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0.0}
        choices = self._complete([self._prompt(text, self.window.context) for text in inputs], body)
        return [[score or 0.0 for score in choice["logprobs"]["token_logprobs"]] for choice in choices]

    def _complete(self, prompts: list[str | list[int]], body: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.endpoint.post("/v1/completions", {"model": self.path, "prompt": prompts, **body})
        return sorted(answer["choices"], key=lambda choice: choice["index"])


class ServedChat(BaseAPIModel):
    """Answers conversations through /v1/chat/completions; as ServedBase. `workers`: requests at once.

    temperature: 0 takes the likeliest answer, anything else draws it with SEED. key_env: name of the environment
    variable that holds the endpoint's key.
    """

    def __init__(
        self,
        path: str,
        url: str,
        context: int,
        tokenizer: str | None,
        timeout_s: float,
        max_seq_len: int,
        workers: int = 8,
        temperature: float = 0.0,
        key_env: str | None = None,
    ) -> None:
        super().__init__(path=path, max_seq_len=max_seq_len, meta_template=META)
        self.endpoint = Endpoint(url, timeout_s, os.environ[key_env] if key_env else None)
        self.window, self.workers = window(tokenizer, context), workers
        self.sampling = {"temperature": temperature} | ({"seed": SEED} if temperature else {})
        self.template_parser = APITemplateParser(META)

    def generate(self, inputs: list[Any], max_out_len: int) -> list[str]:
        """inputs: strings, or lists of {role, prompt}; the likeliest answer to each."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda prompt: self._answer(prompt, max_out_len), inputs))

    def get_token_len(self, prompt: str) -> int:
        return self.window.count(prompt) + TURN_TOKENS

    def _answer(self, prompt: Any, max_out_len: int) -> str:
        turns = [{"role": "HUMAN", "prompt": prompt}] if isinstance(prompt, str) else prompt
        messages: list[Message] = [{"role": ROLES[turn["role"]], "content": turn["prompt"]} for turn in turns]
        room = min(max_out_len, self.window.context // ANSWER_SHARE)
        messages = fit(messages, self.window, self.window.context - room)
        body = {"model": self.path, "messages": messages, "max_tokens": room, **self.sampling}
        return self.endpoint.post("/v1/chat/completions", body)["choices"][0]["message"]["content"] or ""
