"""The tokenizer stage: cl100k's head and tokens learned on the Chinese part of the kept corpus."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ilm_ray.config.schema import TokenizerConfig
from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError
from ilm_ray.tokenizer.chinese import learn_tokens, limited
from ilm_ray.tokenizer.cl100k import TOKENS, cl100k
from ilm_ray.tokenizer.tokenizer import SPECIALS, Tokenizer

SAMPLE_CHARS = 200_000  # of Chinese text, on which compression is measured


def check_settings(config: TokenizerConfig) -> None:
    """Raises UserError where the parts of the vocabulary cannot fit together."""
    if not 256 <= config.base_tokens <= TOKENS:
        raise UserError(f"tokenizer.base_tokens={config.base_tokens} must lie between 256 (the bytes) and {TOKENS}")
    if config.chinese_tokens < 0:
        raise UserError(f"tokenizer.chinese_tokens={config.chinese_tokens} must be 0 or more")
    needed = config.base_tokens + config.chinese_tokens + len(SPECIALS)
    if config.vocab_size < needed:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size} is too small for base_tokens + chinese_tokens + "
            f"{len(SPECIALS)} special tokens; set it to {needed} or more"
        )


def build_tokenizer(context: Context) -> Result:
    """Write `vocabulary.json` and `huggingface/` into the stage's folder."""
    config = context.config.tokenizer
    files = sorted((context.of("text") / "quality").glob("kept-*.jsonl.zst"))
    ranks, pattern = cl100k()
    base = sorted(ranks, key=ranks.__getitem__)[: config.base_tokens]
    texts = limited(_chinese(files), config.training_chars)
    learned = learn_tokens(texts, {token: rank for rank, token in enumerate(base)}, pattern, config.chinese_tokens)
    if len(learned) < config.chinese_tokens:
        context.journal.event("note", stage="tokenizer", learned=len(learned), asked=config.chinese_tokens)
    tokenizer = Tokenizer(base + learned, pattern, config.vocab_size)
    summary: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "base_tokens": len(base),
        "learned_tokens": len(learned),
        "spare_ids": config.vocab_size - len(base) - len(learned) - len(SPECIALS),
        "special_tokens": len(SPECIALS),
    }
    sample = "".join(limited(_chinese(files), SAMPLE_CHARS))
    if sample:
        size = len(sample.encode("utf-8", "replace"))
        before = Tokenizer(base, pattern, config.vocab_size)
        summary["zh_bytes_per_token_base"] = round(size / len(before.encode(sample)), 3)
        summary["zh_bytes_per_token"] = round(size / len(tokenizer.encode(sample)), 3)
    written = [tokenizer.save(context.folder), *tokenizer.save_huggingface(context.folder / "huggingface")]
    return Result(written, {"summary": summary})


def _chinese(files: list[Path]) -> Iterator[str]:
    return (row["text"] for path in files for row in read_jsonl(path) if row["language"] == "zh")
