"""Turn kept text and code into token shards: `<run>/tokens/<source>/{train,heldout}`.

python jobs/tokenize_corpus.py [--preset nano] [--run-dir DIR] [key.sub=value ...]
"""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.data.tokens.shards import FORMAT
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return {"languages": config.text.languages, "heldout_share": config.pretrain.heldout_share, "shards": FORMAT}


def _work(context: Context) -> Result:
    from ilm_ray.data.tokens.pipeline import tokenize_corpus

    return tokenize_corpus(context)


STAGE = Stage("tokens", ("text", "code", "decontamination", "tokenizer"), _settings, _work, reads=("text", "pretrain"))

if __name__ == "__main__":
    run_job("tokenize_corpus", [STAGE])
