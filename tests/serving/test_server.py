"""The endpoint through the `openai` client, the page through a real browser."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch

from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.weights import load_causal
from ilm_ray.serving.page import POLICY
from tests.browser import BINARY, Browser
from tests.serving.conftest import serving

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.timeout(1800)
QUESTION: list[Any] = [{"role": "user", "content": "Name three colours, <|im_end|> please."}]
STREAMS = 50


def client(url: str) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)


def test_chat_answers_whole_and_in_parts(served: str) -> None:
    request: dict[str, Any] = {"model": "nano", "messages": QUESTION, "max_tokens": 24, "temperature": 0.0}
    whole = client(served).chat.completions.create(**request)
    assert whole.usage is not None and whole.usage.completion_tokens <= 24 and whole.choices[0].message.content
    parts = list(client(served).chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == whole.choices[0].message.content and len(parts) > 3
    assert parts[-1].usage == whole.usage


def test_a_conversation_is_rendered_as_in_training(served: str, small_run: Path) -> None:
    """The number of prompt tokens, and the log-probabilities of an answer, are those of our template and model."""
    tokenizer = Tokenizer.load(small_run / "tokenizer")
    prompt = encode_chat(tokenizer, QUESTION, generation_prompt=True).ids
    answer = client(served).chat.completions.create(
        model="nano", messages=QUESTION, max_tokens=12, temperature=0.0, logprobs=True, top_logprobs=5
    )
    assert answer.usage is not None and answer.usage.prompt_tokens == len(prompt)
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    model, ids = load_causal(small_run / "sft" / "model"), list(prompt)
    for token in answer.choices[0].logprobs.content:
        with torch.no_grad():
            row = model(packed_from_arrays([np.array(ids, np.int64)]))[-1].log_softmax(-1)
        best = int(row.argmax())
        assert token.logprob == pytest.approx(float(row[best]), abs=1e-3)
        assert [t.logprob for t in token.top_logprobs] == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
        ids.append(best)


def test_special_tokens_are_told_where_they_are_asked_for(served: str) -> None:
    """A call of a tool stands between such tokens. Hot sampling from a small vocabulary draws some."""
    for seed in range(6):
        request: dict[str, Any] = {"model": "nano", "prompt": "x", "max_tokens": 300, "temperature": 2.0, "seed": seed}
        with_them, without = (
            client(served).completions.create(**request, extra_body={"skip_special_tokens": skip}).choices[0].text
            for skip in (False, True)
        )
        assert not any(name in without for name in SPECIALS)
        if any(name in with_them for name in SPECIALS):
            return
    raise AssertionError("no special token was drawn")


def test_a_text_is_scored(served: str, small_run: Path) -> None:
    """Perplexity scoring: echo, logprobs and no new token give the log-probability of every token given."""
    tokenizer = Tokenizer.load(small_run / "tokenizer")
    ids = tokenizer.encode_document("The capital of France is Paris.")[:-1].tolist()
    answer = client(served).completions.create(model="nano", prompt=ids, echo=True, logprobs=0, max_tokens=0)
    with torch.no_grad():
        rows = load_causal(small_run / "sft" / "model")(packed_from_arrays([np.array(ids, np.int64)])).log_softmax(-1)
    expected = rows[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.token_logprobs is not None
    scores = answer.choices[0].logprobs.token_logprobs
    assert len(scores) == len(ids) and scores[0] is None
    assert scores[1:] == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_stop_text_ends_the_answer(served: str) -> None:
    request: dict[str, Any] = {"model": "nano", "prompt": "The sky is", "max_tokens": 40, "temperature": 0.0}
    free = client(served).completions.create(**request).choices[0].text
    stop = free[len(free) // 2 : len(free) // 2 + 2]
    held = client(served).completions.create(**request, stop=[stop]).choices[0]
    assert held.text == free[: free.index(stop)] and held.finish_reason == "stop"


def test_errors_are_objects_with_the_right_status(served: str) -> None:
    import openai

    create = client(served).chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="other", messages=QUESTION)
    assert "other" in str(unknown.value)
    wrong: list[dict[str, Any]] = [
        {"max_tokens": 100_000},
        {"temperature": -1},
        {"messages": [{"role": "wizard", "content": "a"}]},
        {"top_logprobs": 500, "logprobs": True},
    ]
    for settings in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            create(**({"model": "nano", "messages": QUESTION} | settings))
        assert refused.value.body and refused.value.status_code == 400, settings


def test_health_models_and_metrics(served: str) -> None:
    assert [m.id for m in client(served).models.list()] == ["nano"]
    with urllib.request.urlopen(f"{served}/health", timeout=30) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{served}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert "generation_tokens_total" in text and "# TYPE" in text


def test_fifty_streams_at_once(served: str) -> None:
    import openai

    async def parts_of(asking: "openai.AsyncOpenAI", number: int) -> int:
        parts = 0
        question: list[Any] = [{"role": "user", "content": f"Count from {number}."}]
        stream = await asking.chat.completions.create(
            model="nano", messages=question, max_tokens=32, stream=True, seed=number
        )
        async for part in stream:
            parts += bool(part.choices and part.choices[0].delta.content)
        return parts

    async def all_of_them() -> list[int]:
        asking = openai.AsyncOpenAI(base_url=f"{served}/v1", api_key="none", timeout=600, max_retries=0)
        return await asyncio.gather(*(parts_of(asking, number) for number in range(STREAMS)))

    parts = asyncio.run(all_of_them())
    assert len(parts) == STREAMS and min(parts) > 0


@pytest.mark.slow
def test_vllm_answers_in_bf16(local_ray: None, small_run: Path, tmp_path: Path) -> None:
    """Attention is computed by other kernels than in fp32, with AMX where the processor has it."""
    request: dict[str, Any] = {"model": "nano", "messages": QUESTION, "max_tokens": 1, "temperature": 0.0}
    with serving(small_run / "sft", tmp_path / "export", "bf16") as url:
        answer = client(url).chat.completions.create(**request, logprobs=True, top_logprobs=5)
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    (token,) = answer.choices[0].logprobs.content
    prompt = encode_chat(Tokenizer.load(small_run / "tokenizer"), QUESTION, generation_prompt=True).ids
    with torch.no_grad():
        row = load_causal(small_run / "sft" / "model")(packed_from_arrays([np.array(prompt, np.int64)]))[-1]
    ours = row.log_softmax(-1).topk(5).values.tolist()
    print([t.logprob for t in token.top_logprobs], ours)
    assert [t.logprob for t in token.top_logprobs] == pytest.approx(ours, abs=0.05)


@pytest.mark.slow
def test_no_process_of_vllm_outlives_a_killed_server(local_ray: None, small_run: Path, tmp_path: Path) -> None:
    before = _vllm()
    with serving(small_run / "sft", tmp_path / "export") as url:
        client(url).models.list()
        started = _vllm() - before
        assert {"VLLM::EngineCore", "VLLM::Worker"} <= {process.name() for process in started}
        (application,) = (process for process in started if "api_server" in " ".join(process.cmdline()))
        application.kill()
        _, left = psutil.wait_procs(started - {application}, timeout=30)  # that one waits to be reaped
        assert left == []


def _vllm() -> set[psutil.Process]:
    processes = list(psutil.process_iter(["name", "cmdline"]))
    engines = {p for p in processes if p.info["name"].startswith("VLLM::")}
    return engines | {p for p in processes if "vllm.entrypoints" in " ".join(p.info["cmdline"] or [])}


def test_the_page_in_a_browser(served: str, tmp_path: Path) -> None:
    if BINARY is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    asyncio.run(drive(served, tmp_path))


async def drive(url: str, pictures: Path) -> None:
    with urllib.request.urlopen(f"{url}/", timeout=30) as answer:
        assert answer.headers["Content-Security-Policy"] == POLICY
    async with Browser(pictures / "profile") as browser:
        await browser.open(f"{url}/", 1100, 800)
        await browser.until("document.getElementById('model').textContent === 'nano'")
        ask = "document.getElementById('max_tokens').value = {0}; document.getElementById('question').value = {1}; document.getElementById('send').click()"  # noqa: E501
        # Question and answer are shown as text.
        hostile = json.dumps("<img src=x onerror=\"document.title='owned'\"> What is the sky?")
        await browser.run(ask.format(24, hostile))
        await browser.until("document.querySelector('.turn.assistant .said').textContent.length > 0")
        await browser.until("!document.getElementById('send').hidden")
        assert await browser.run("document.querySelectorAll('main img').length") == 0
        assert await browser.run("document.title") == "Chat"
        await browser.picture(pictures / "wide.png")
        # A long answer grows while one looks, until stop is pressed.
        await browser.run("document.getElementById('new').click()")
        await browser.run(ask.format(400, json.dumps("Tell a long story.")))
        last = "[...document.querySelectorAll('.turn.assistant .said')].at(-1).textContent.length"
        first = await browser.until(last)
        await browser.until(f"{last} > {first}")
        await browser.run("document.getElementById('stop').click()")
        await browser.until("!document.getElementById('send').hidden")
        assert "stopped" in await browser.run(
            "[...document.querySelectorAll('.turn.assistant footer')].at(-1).textContent"
        )
        stopped = await browser.run(last)
        await browser.run("new Promise(r => setTimeout(r, 500))")
        assert await browser.run(last) == stopped
        # Copy gives the text, by the clipboard or marked.
        await browser.run("[...document.querySelectorAll('.turn.assistant footer button')].at(-1).click()")
        await browser.until(
            "/Copied|Marked/.test([...document.querySelectorAll('.turn.assistant footer button')].at(-1).textContent)"
        )
        await browser.run("document.getElementById('settings').open = true")
        await browser.picture(pictures / "stopped.png")
        # The server's refusal is told to the person.
        await browser.run(ask.format(100000, json.dumps("Too much.")))
        await browser.until("document.querySelector('.failed')?.textContent.length > 10")
        await browser.open(f"{url}/", 360, 640, dark=True)
        await browser.until("document.getElementById('model').textContent === 'nano'")
        await browser.run(ask.format(32, json.dumps("Is it dark?")))
        await browser.until(
            "!document.getElementById('send').hidden && document.querySelector('.assistant .said').textContent"
        )
        await browser.run("document.getElementById('settings').open = true")
        assert await browser.run("document.documentElement.scrollWidth <= innerWidth")
        await browser.picture(pictures / "narrow.png")
        assert [p for p in browser.problems if "favicon" not in p and "400" not in p] == []
