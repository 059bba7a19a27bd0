"""Build the vocabulary: the head of cl100k plus Chinese tokens learned from the kept text."""

from collections.abc import Iterator
from typing import Any

from ilm_ray.config import Config
from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.stage import Context, Result, Stage
from ilm_ray.tokenizer.ranks import cl100k_ranks
from ilm_ray.tokenizer.tokenizer import Tokenizer
from jobs._job import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"tokenizer": config.tokenizer.model_dump()}


def _chinese(context: Context) -> Iterator[str]:
    for path in sorted(context.of("text").glob("quality/kept-*.jsonl.zst")):
        yield from (row["text"] for row in read_jsonl(path) if row["language"] == "zh")


def _work(context: Context) -> Result:
    c = context.config.tokenizer
    tokenizer = Tokenizer.train(
        cl100k_ranks(), c.base_tokens, _chinese(context), c.chinese_tokens, c.training_chars, c.vocab_size
    )
    learned = len(tokenizer.ranks) - c.base_tokens
    sample = next(_chinese(context), "")[:5000]
    tokens = tokenizer.encode(sample)
    summary = {
        "vocab_size": tokenizer.vocab_size,
        "learned_tokens": learned,
        "spare_ids": tokenizer.vocab_size - len(tokenizer.ranks) - len(tokenizer.specials),
        "chinese_chars_per_token": round(len(sample) / max(len(tokens), 1), 3),
    }
    return Result([tokenizer.save(context.folder)], {"summary": summary})


STAGE = Stage("tokenizer", ("text",), _settings, _work)

if __name__ == "__main__":
    run_job("tokenizer", [STAGE])
