"""One exported model asked by every client that people use: the same figures side by side.

    python benchmarks/clients.py --run runs/demo [--stage ppo] [--peer-venv .venv-clients]

`jobs/checkpoint.py export` writes the stage, `jobs/serve.py` serves the folder. Asked: our own forward, Transformers,
vLLM's native class in its own process, the openai client over HTTP, lm-eval by its Transformers back end and by its
completions client over HTTP, TRL's SFTTrainer with `assistant_only_loss` (where the chat template marks the assistant's
tokens, as ours does). All compute in fp32 on CPUs. Figures: mean log-probability a token of two texts, sums over
endings behind a beginning, mean loss on the assistant's tokens of a conversation, greedy answer to a question. Claim:
each is within 0.005 nats of ours, and all greedy answers are the same. The peers' environment is made where it is
absent. Minutes on two cores.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import torch

from benchmarks.processes import peer_python
from ilm_ray.data.tokenizer.chat import AnyTokenizer, encode_chat
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import CausalLM, Packed
from ilm_ray.model.weights import load_causal

ROOT = Path(__file__).parents[1]
PEERS = ("torch==2.13.0", "trl==1.11.0", "transformers<5.20", "datasets", "accelerate", "rich", "requests")
PEERS += ("lm_eval", "tenacity", "aiohttp", "tiktoken")
TEXTS = (
    "The river runs past the old mill, and in winter the children skate on the meadows behind it.",
    "春天来了，河边的柳树发出了嫩绿的新芽，孩子们在草地上放风筝。",
)
ENDINGS = (("The capital of France is", " Paris."), ("Two and two make", " four."))
TALK = (
    {"role": "user", "content": "What is a bridge for?"},
    {"role": "assistant", "content": "A bridge lets people cross a river."},
)
QUESTION = TALK[:1]
NEW_TOKENS, BOUND = 16, 0.005
NATIVE = """
import json, sys
import vllm
folder, texts, talk, new_tokens = json.load(sys.stdin)
engine = vllm.LLM(folder, enforce_eager=True, dtype="float32", max_model_len=256)
scored = engine.generate(texts, vllm.SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
means = []
for answer in scored:
    ids = answer.prompt_token_ids[1:]
    rows = answer.prompt_logprobs[1:]
    means.append(sum(row[i].logprob for i, row in zip(ids, rows)) / len(ids))
greedy = vllm.SamplingParams(temperature=0, max_tokens=new_tokens)
(said,) = engine.chat(talk, greedy, use_tqdm=False)
print("FIGURES", json.dumps({"texts": means, "answer": said.outputs[0].text}))
"""
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--stage", default="ppo")
    parser.add_argument("--peer-venv", type=Path, default=ROOT / ".venv-clients")
    arguments = parser.parse_args()
    run = arguments.run.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "exported")
        export = ["export", "--run-dir", str(run), "--stage", arguments.stage, "--dtype", "fp32", "--out", str(folder)]
        subprocess.run([sys.executable, str(ROOT / "jobs" / "checkpoint.py"), *export], check=True, timeout=600)
        rows = {"ilm_ray": ours(run, arguments.stage), "vLLM, native": native(folder)}
        with served(folder) as url:
            rows["openai"] = by_openai(url)
            rows |= peers(peer_python(arguments.peer_venv, PEERS), folder, url)
    print(table(rows))
    gaps = differences(rows)
    same = all(row["answer"] == rows["ilm_ray"]["answer"] for row in rows.values() if "answer" in row)
    print(json.dumps({"largest_difference": gaps, "same_answers": same, "holds": max(gaps.values()) < BOUND and same}))


def ours(run: Path, stage: str) -> Figures:
    """The stage's own weights and the run's tokenizer."""
    model, tokenizer = load_causal(run / stage / "model"), open_tokenizer(run / "tokenizer")
    begin = [tokenizer.bos_id] if tokenizer.begins_documents else []
    texts = [logprobs(model, begin + tokenizer.encode(text)) for text in TEXTS]
    endings = []
    for start, end in ENDINGS:
        before = len(begin + tokenizer.encode(start))
        endings.append(sum(logprobs(model, begin + tokenizer.encode(start + end))[before - 1 :]))
    ids, mask = encode_chat(tokenizer, TALK)
    learned = [value for value, counts in zip(logprobs(model, ids), mask[1:], strict=True) if counts]
    return {
        "texts": [sum(values) / len(values) for values in texts],
        "endings": endings,
        "loss": -sum(learned) / len(learned),
        "answer": answer(model, tokenizer),
    }


@torch.no_grad()
def logprobs(model: CausalLM, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first, each given those before it."""
    labels = torch.tensor(ids[1:])
    values: list[float] = (-model(Packed.of([list(ids[:-1])]), labels)).tolist()
    return values


def answer(model: CausalLM, tokenizer: AnyTokenizer) -> str:
    """The greedy answer as a client shows it."""
    prompt = encode_chat(tokenizer, QUESTION, generation_prompt=True).ids
    stops = [tokenizer.turn_end_id, tokenizer.eos_id]
    ((ids, _),) = generate(model, [prompt], NEW_TOKENS, temperature=0.0, stop_ids=stops)
    return shown(tokenizer.decode([i for i in ids if i not in stops]))


def shown(text: str) -> str:
    """Cut characters at the end and white space around an answer are shown otherwise from client to client."""
    return text.rstrip("\ufffd").strip()


def native(folder: Path) -> Figures:
    """vLLM's own class for the folder's architecture."""
    request = json.dumps([str(folder), TEXTS, QUESTION, NEW_TOKENS])
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    words = [sys.executable, "-c", NATIVE]
    done = subprocess.run(words, input=request, env=os.environ | env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"vLLM: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout.split("FIGURES ", 1)[1].splitlines()[0])
    return figures | {"answer": shown(figures["answer"])}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of `jobs/serve.py` with the folder's model, which is named `exported`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "jobs/serve.py", f"serve.model={folder}", f"serve.port={port}", "serve.context=256"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 600
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not come up (exit code {process.returncode})")
            time.sleep(1.0)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def by_openai(url: str) -> Figures:
    """The openai package against our server."""
    client, means = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120), []
    for text in TEXTS:
        scored = client.completions.create(model="exported", prompt=text, max_tokens=0, echo=True, logprobs=1)
        values = [value for value in scored.choices[0].logprobs.token_logprobs if value is not None]
        means.append(sum(values) / len(values))
    said = client.chat.completions.create(model="exported", messages=QUESTION, temperature=0, max_tokens=NEW_TOKENS)
    return {"texts": means, "answer": shown(said.choices[0].message.content)}


def peers(python: Path, folder: Path, url: str) -> dict[str, Figures]:
    """Transformers, lm-eval and TRL in an environment of their own."""
    asked = {"folder": str(folder), "url": url, "texts": TEXTS, "endings": ENDINGS, "talk": TALK, "new": NEW_TOKENS}
    words = [str(python), str(Path(__file__).with_name("clients_peer.py"))]
    done = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"peers: {done.stderr[-3000:]}")
    rows: dict[str, Figures] = json.loads(done.stdout.split("FIGURES ", 1)[1].splitlines()[0])
    return {name: row | ({"answer": shown(row["answer"])} if "answer" in row else {}) for name, row in rows.items()}


def differences(rows: dict[str, Figures]) -> dict[str, float]:
    """Client -> largest distance of its log-probabilities and losses from ours, in nats."""
    mine, gaps = rows["ilm_ray"], dict[str, float]()
    for name, row in rows.items():
        pairs = [*zip(row.get("texts", []), mine["texts"], strict=False)]
        pairs += zip(row.get("endings", []), mine["endings"], strict=False)
        pairs += [(row["loss"], mine["loss"])] if "loss" in row else []
        gaps[name] = round(max(abs(a - b) for a, b in pairs), 5)
    return gaps


def table(rows: dict[str, Figures]) -> str:
    """A line a client; - where it has no such figure."""
    lines = [f"{'client':<24}{'English':>10}{'Chinese':>10}{'endings':>18}{'loss':>9}  answer"]
    for name, row in rows.items():
        texts = "".join(f"{value:>10.4f}" for value in row["texts"]) if "texts" in row else f"{'-':>10}" * 2
        endings = " ".join(f"{value:.3f}" for value in row["endings"]) if "endings" in row else "-"
        loss = f"{row['loss']:.4f}" if "loss" in row else "-"
        lines.append(f"{name:<24}{texts}{endings:>18}{loss:>9}  {row.get('answer', '-')!r}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
