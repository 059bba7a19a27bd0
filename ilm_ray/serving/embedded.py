"""The embedded server: vLLM's routes over the torch generator, for machines without vLLM.

    python -m ilm_ray.serving.embedded FOLDER NAME HOST PORT CONTEXT DTYPE

One thread computes, one token of one answer at a time, so that all answers move on together.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiohttp import web
from jinja2 import TemplateError
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.generate import next_tokens
from ilm_ray.model.huggingface import DTYPES, read_model
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.serving import page, protocol
from ilm_ray.serving.protocol import ChatRequest, CompletionRequest, Refused, Token

GRACE_S = 10.0


class Embedded:
    """A model, its tokenizer, and the handlers of the routes."""

    def __init__(self, folder: Path, name: str, context: int, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoTokenizer

        model = read_model(folder)
        if not isinstance(model, CausalLM):
            raise UserError(f"{folder} is a reward model; only language models are served")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device, dtype).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
        self.ends = set(ids if isinstance(ids, list) else [ids])
        self.name, self.context, self.numbers = name, context, itertools.count()
        self.counts = {"requests": 0, "prompt_tokens": 0, "generation_tokens": 0, "running": 0}
        self.thread = ThreadPoolExecutor(1)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=8 * 2**20)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        for path in ("/", "/chat.css", "/chat.js"):
            app.router.add_get(path, _page)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "ilm_ray"}]}
        )

    async def metrics(self, _: web.Request) -> web.Response:
        lines = []
        for name, value in self.counts.items():
            full, kind = (
                (f"ilm_server_{name}", "gauge") if name == "running" else (f"ilm_server_{name}_total", "counter")
            )
            lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            params: ChatRequest = protocol.checked(ChatRequest, await _json(request), self.name)
            try:
                ids = self.tokenizer.apply_chat_template(params.messages, add_generation_prompt=True, return_dict=False)
            except TemplateError as error:
                raise Refused(400, f"messages: {error}") from None
            most = protocol.room(len(ids), params.max_completion_tokens or params.max_tokens, self.context)
        except Refused as refused:
            return web.json_response(refused.body(), status=refused.status)
        head = (f"chatcmpl-{next(self.numbers)}", int(time.time()), self.name)
        tokens: list[Token] = []
        parts = self._answer(ids, most, params, params.top_logprobs, tokens)
        if not params.stream:
            text, reason = await _whole(parts)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
            choice["logprobs"] = protocol.chat_logprobs(tokens) if params.logprobs else None
            body = protocol.envelope("chat.completion", *head, [choice])
            return web.json_response(body | {"usage": protocol.usage(len(ids), len(tokens))})

        def chunk(delta: dict[str, str], reason: str | None, new: list[Token]) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            choice["logprobs"] = protocol.chat_logprobs(new) if params.logprobs else None
            return protocol.envelope("chat.completion.chunk", *head, [choice])

        async def events() -> AsyncIterator[dict[str, Any]]:
            yield chunk({"role": "assistant", "content": ""}, None, [])
            seen = 0
            async for text, reason in parts:
                yield chunk({"content": text}, reason, tokens[seen:])
                seen = len(tokens)
            if params.stream_options and params.stream_options.include_usage:
                last = protocol.envelope("chat.completion.chunk", *head, [])
                yield last | {"usage": protocol.usage(len(ids), len(tokens))}

        return await _stream(request, events())

    async def completions(self, request: web.Request) -> web.StreamResponse:
        try:
            params: CompletionRequest = protocol.checked(CompletionRequest, await _json(request), self.name)
            prompts = self._prompts(params)
            if params.stream and (len(prompts) > 1 or params.echo):
                raise Refused(400, "stream: one prompt without echo at a time")
            for ids in prompts:
                protocol.room(len(ids), params.max_tokens, self.context)
        except Refused as refused:
            return web.json_response(refused.body(), status=refused.status)
        head = (f"cmpl-{next(self.numbers)}", int(time.time()), self.name)
        if params.stream:

            async def events() -> AsyncIterator[dict[str, Any]]:
                async for text, reason in self._answer(prompts[0], params.max_tokens, params, params.logprobs or 0, []):
                    choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
                    yield protocol.envelope("text_completion", *head, [choice])

            return await _stream(request, events())
        choices, new = [], 0
        for index, ids in enumerate(prompts):
            tokens = await self._scored(ids, params.logprobs) if params.echo else []
            echoed = len(tokens)
            text, reason = await _whole(self._answer(ids, params.max_tokens, params, params.logprobs or 0, tokens))
            new += len(tokens) - echoed
            whole = (self.tokenizer.decode(ids) if params.echo else "") + text
            logprobs = None if params.logprobs is None else protocol.completion_logprobs(tokens)
            choices.append({"index": index, "text": whole, "finish_reason": reason, "logprobs": logprobs})
        body = protocol.envelope("text_completion", *head, choices)
        return web.json_response(body | {"usage": protocol.usage(sum(map(len, prompts)), new)})

    def _prompts(self, params: CompletionRequest) -> list[list[int]]:
        prompt: Any = params.prompt
        many = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
        begin = params.add_special_tokens
        prompts = [self.tokenizer.encode(p, add_special_tokens=begin) if isinstance(p, str) else p for p in many]
        if any(not 0 <= i < self.model.shape.vocab_size for ids in prompts for i in ids):
            raise Refused(400, f"prompt: token ids must be below {self.model.shape.vocab_size}")
        return prompts

    async def _answer(
        self, ids: list[int], most: int, params: ChatRequest | CompletionRequest, top: int, tokens: list[Token]
    ) -> AsyncIterator[tuple[str, str | None]]:
        """Pieces of an answer's text, the last with the reason of its end. Appends the tokens to `tokens`."""
        seed = params.seed if params.seed is not None else time.time_ns()
        steps = next_tokens(self.model, ids, most, params.temperature, params.top_p, seed % 2**63)
        self.counts["requests"] += 1
        self.counts["prompt_tokens"] += len(ids)
        self.counts["running"] += 1
        try:
            new, sent_text, reason = list[int](), "", None if most else "length"
            while reason is None:
                step = await asyncio.get_running_loop().run_in_executor(self.thread, next, steps)
                self.counts["generation_tokens"] += 1
                tokens.append(self._token(*step, top))
                if step[0] in self.ends:
                    reason = "stop"
                else:
                    new.append(step[0])
                    reason = "length" if len(new) == most else None
                decoded = self.tokenizer.decode(new, skip_special_tokens=params.skip_special_tokens)
                text, stopped = protocol.sayable(decoded, params.stops(), reason is not None)
                reason = "stop" if stopped else reason
                if len(text) > len(sent_text) or reason:
                    yield text[len(sent_text) :], reason
                    sent_text = text
            if not most:
                yield "", reason
        finally:
            self.counts["running"] -= 1

    async def _scored(self, ids: list[int], top: int | None) -> list[Token]:
        """The tokens of a text with their log-probabilities given the tokens before them."""

        def rows() -> Tensor:
            device = next(self.model.parameters()).device
            return self.model(packed_from_arrays([np.array(ids, np.int64)]).to(device)).float().log_softmax(-1)

        log_probabilities = await asyncio.get_running_loop().run_in_executor(self.thread, rows)
        rest = [self._token(i, row, top or 0) for i, row in zip(ids[1:], log_probabilities[:-1], strict=True)]
        return [Token(self.tokenizer.decode([ids[0]]), None), *rest]

    def _token(self, number: int, row: Tensor, top: int) -> Token:
        values, ids = row.topk(top)
        likeliest = [(self.tokenizer.decode([i]), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
        return Token(self.tokenizer.decode([number]), float(row[number]), likeliest)


async def _page(request: web.Request) -> web.Response:
    content = page.page(request.path)
    assert content is not None
    return web.Response(body=content[0], headers=content[1])


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError) as error:  # LookupError: a charset that there is not
        raise Refused(400, f"the body is no JSON: {error}") from None


async def _whole(parts: AsyncIterator[tuple[str, str | None]]) -> tuple[str, str | None]:
    text, reason = "", None
    async for piece, reason in parts:  # noqa: B007  # the last one's is the answer's
        text += piece
    return text, reason


async def _stream(request: web.Request, events: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    """Server-sent events; a client that goes away ends the answer."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    async for event in events:
        await response.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def main(folder: str, name: str, host: str, port: str, context: str, dtype: str) -> None:
    """Serve until SIGTERM; the arguments are those of the command line. Raises what `Embedded` raises."""
    app = Embedded(Path(folder), name, int(context), DTYPES[dtype]).application()
    web.run_app(app, host=host, port=int(port), shutdown_timeout=GRACE_S, handler_cancellation=True, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
