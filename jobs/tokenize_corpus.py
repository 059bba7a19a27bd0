"""Kept documents -> token shards, by source and split: what pre-training reads."""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.corpus.pipeline import tokenize_documents
from ilm_ray.corpus.stage import Stage
from jobs._job import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"heldout_share": config.pretrain.heldout_share}


STAGE = Stage("tokens", ("text", "code", "tokenizer"), _settings, tokenize_documents)

if __name__ == "__main__":
    run_job("tokenize_corpus", [STAGE])
