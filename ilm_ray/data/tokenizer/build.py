"""The tokenizer stage: the base from cl100k, and tokens learned on the Chinese part of the kept corpus."""

import json
from collections.abc import Iterator
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config.data import TokenizerConfig
from ilm_ray.data.documents.document import read_documents
from ilm_ray.data.documents.paths import FINAL
from ilm_ray.data.tokenizer.base import count_tokens, first_tokens, most_used_tokens
from ilm_ray.data.tokenizer.card import describe
from ilm_ray.data.tokenizer.chinese import learn_tokens, limited
from ilm_ray.data.tokenizer.cl100k import TOKENS, cl100k, cl100k_encoding
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from ilm_ray.run.stage import Context, Result

CARD = "card.json"
SAMPLE_CHARS = 200_000  # of each language, on which compression is measured
HELDOUT_EVERY = 20  # the last of so many Chinese documents is not learned from, but measured on


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
    """Write the vocabulary, `card.json` and `huggingface/` into the stage's folder.

    Where the corpus is too small for all Chinese tokens, the ids that are missing become spare ones: the size of the
    vocabulary and the special ids stay as set. A note in the journal and the card say how many were learned.
    """
    config = context.config.tokenizer
    texts = sorted((context.of("text") / FINAL).glob("kept-*.jsonl.zst"))
    codes = sorted(context.of("code").glob("kept-*.jsonl.zst"))
    ranks, _ = cl100k()
    if config.base_choice == "first":
        base = first_tokens(ranks, config.base_tokens)
    else:
        counts = count_tokens(cl100k_encoding(), limited(_texts(texts, "en"), config.training_chars))
        counts += count_tokens(cl100k_encoding(), limited(_texts(codes), config.training_chars))
        base = most_used_tokens(ranks, counts, config.base_tokens)
    chinese = (text for number, text in enumerate(_texts(texts, "zh"), 1) if number % HELDOUT_EVERY)
    learned = learn_tokens(
        limited(chinese, config.training_chars),
        {token: rank for rank, token in enumerate(base)},
        config.chinese_tokens,
    )
    if len(learned) < config.chinese_tokens:
        missing = config.chinese_tokens - len(learned)
        context.journal.event(
            "note", stage="tokenizer", learned=len(learned), asked=config.chinese_tokens, left_spare=missing
        )
    tokenizer = Tokenizer(base + learned, config.vocab_size)
    heldout = (text for number, text in enumerate(_texts(texts, "zh"), 1) if number % HELDOUT_EVERY == 0)
    samples = {"zh": heldout, "en": _texts(texts, "en"), "code": _texts(codes)}
    card = describe(
        tokenizer, len(base), config.chinese_tokens, {k: "".join(limited(v, SAMPLE_CHARS)) for k, v in samples.items()}
    )
    write_text_atomic(context.folder / CARD, json.dumps(card, indent=1, ensure_ascii=False))
    written = [
        *tokenizer.save(context.folder),
        context.folder / CARD,
        *tokenizer.save_huggingface(context.folder / "huggingface"),
    ]
    tables = {key: value for key, value in card.items() if isinstance(value, dict)}
    summary = {key: value for key, value in card.items() if isinstance(value, int)}
    for name, row in tables["bytes_per_token"].items():
        summary[f"{name}_bytes_per_token"] = row["this"]
    return Result(written, {"summary": summary, **tables})


def _texts(files: list[Path], language: str | None = None) -> Iterator[str]:
    """Texts of the documents in `language`; of all of them for None."""
    for path in files:
        for document in read_documents(path):
            if language in (None, document.language):
                yield document.text
