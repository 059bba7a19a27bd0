"""A run folder as the stages before leave it, with documents made here, and a tiny scoring model."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ilm_ray.base.jsonl import JsonObject, write_jsonl
from ilm_ray.data.documents.language import tokens
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.weights import save_internlm2
from ilm_ray.run.manifest import Manifest, commit

VOCABULARY = 600
WORDS = tokens("the river and a stone they saw because it was cold however nobody came to see that old house again")


@dataclass(frozen=True)
class Made:
    """A run before `long_text`: its documents by id, and the ids of each token shard in its order."""

    run: Path
    rows: dict[int, JsonObject]
    shards: dict[str, list[int]]


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    ranks, _ = cl100k()
    return Tokenizer(first_tokens(ranks, 500), VOCABULARY)


@pytest.fixture(scope="session")
def scorers(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """One model twice: `own` in our layout with its tokenizer, `llama` for Transformers."""
    folder = tmp_path_factory.mktemp("scorers")
    model = CausalLM(Shape(VOCABULARY, 2, 64, 2, 2, 16, 96, init_std=0.15))
    initialize(model, 7)
    save_internlm2(model, folder / "own")
    small_tokenizer.save(folder / "own")
    export_model(model, folder / "llama", "llama", torch.float32)
    small_tokenizer.save_huggingface(folder / "llama")
    return folder


def made_text(rng: random.Random, size: int) -> str:
    lines, held = list[str](), 0
    while held < size:
        lines.append(" ".join(rng.choices(WORDS, k=rng.randrange(6, 18))) + f" {rng.randrange(99)}.")
        held += len(lines[-1]) + 1
    return "\n".join(lines)


def make_run(run: Path, tokenizer: Tokenizer) -> Made:
    """Two files of web text, one of books, one of code; in the shards a document is missing, as if decontaminated."""
    rng = random.Random(4)
    rows: dict[int, JsonObject] = {}
    shards: dict[str, list[int]] = {}
    files = (("text", 0, "en", "CC-MAIN-2024-10"), ("text", 1, "zh", "CC-MAIN-2024-10"), ("text", 2, "en", "books"))
    for stage, number, language, dump in (*files, ("code", 0, "code", "code")):
        documents = []
        for place in range(24):
            text = made_text(rng, rng.choice((300, 1500, 4000)))
            if place % 6 == 5:
                text = "\n".join(f"{rng.random()} {rng.random()}" for _ in range(150))  # a table of numbers
            url = f"https://{stage}.test/{number}/{place}"
            row = {"id": len(rows) + 1, "url": url, "dump": dump, "language": language, "text": text}
            rows[row["id"]] = row
            documents.append(row)
        folder = run / "text" / "final" if stage == "text" else run / "code"
        write_jsonl(folder / f"kept-{number:05d}.jsonl.zst", documents)
        for split, part in (("train", documents[2:][::-1]), ("heldout", documents[1:2])):  # any order, and one fewer
            encoded = [np.array(tokenizer.encode(row["text"]), np.uint32) for row in part]
            write_shard(
                run / "tokens" / language / split,
                number,
                [
                    row | {"tokens": ids, "bytes": len(row["text"].encode())}
                    for row, ids in zip(part, encoded, strict=True)
                ],
            )
            shards[f"{language}/{split}/shard-{number:05d}"] = [row["id"] for row in part]
    tokenizer.save(run / "tokenizer")
    for stage in ("text", "code", "tokenizer", "tokens"):
        commit(run / stage, Manifest(stage, {}, {}))
    return Made(run, rows, shards)


@pytest.fixture
def made(tmp_path: Path, small_tokenizer: Tokenizer) -> Made:
    return make_run(tmp_path / "run", small_tokenizer)
