"""Opens the tokenizer in a folder, whichever kind it is, and brings that of another model into a run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.data.tokenizer.brought import REWARD, BroughtTokenizer, Vocabulary
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokenizer.documented import (
    CONFIG,
    LARGEST,
    SENTENCEPIECE,
    TOKENIZER_JSON,
    read_documented,
    read_object,
)
from ilm_ray.data.tokenizer.tokenizer import NAME, Tokenizer
from ilm_ray.data.tokenizer.tokenizer_json import JsonVocabulary

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.role == 'assistant' -%}"
    "{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message.content + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_CHATML_NAMES = ("<|im_start|>", "<|im_end|>")


class BroughtInto(NamedTuple):
    """added_tokens: those that the model never saw, with their ids. The embedding needs `tokenizer.vocab_size` rows."""

    tokenizer: AnyTokenizer
    added_tokens: dict[str, int]


def open_tokenizer(folder: Path) -> AnyTokenizer:
    """Our vocabulary, else tokenizer.json, else sentencepiece's tokenizer.model.

    Raises UserError where the folder has none of them, or where a file is damaged or too large.
    """
    if (folder / NAME).exists() or _brought_kind(folder) is None:
        return Tokenizer.load(folder)
    return _open_brought(folder)


def holds_tokenizer(folder: Path) -> bool:
    """Whether there is a file for `open_tokenizer`."""
    return (folder / NAME).is_file() or _brought_kind(folder) is not None


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide about ids. Our own vocabulary.json has the hash of its neighbour."""
    if (folder / NAME).is_file():
        return [folder / NAME]
    return [path for name in LARGEST if (path := folder / name).is_file()]


def bring_tokenizer(source: Path, folder: Path) -> BroughtInto:
    """Copy the tokenizer in `source` into the run's tokenizer folder, with the tokens that the stages need.

    A model without a chat template gets ChatML and its two tokens; one without an unused token gets <|reward|>. They
    have the next free ids. Raises UserError as `open_tokenizer` does.
    """
    if not holds_tokenizer(source):
        raise UserError(f"{source} has no tokenizer: {TOKENIZER_JSON}, {SENTENCEPIECE} or {NAME}; copy it there")
    if (source / NAME).exists():
        own = Tokenizer.load(source)
        own.save(folder)
        return BroughtInto(own, {})
    brought = _open_brought(source)
    brought.save(folder)
    wanted = list(_CHATML_NAMES) if brought.template is None else []
    wanted += [] if brought.has_reward else [REWARD]
    added = {
        name: brought.vocab_size + number
        for number, name in enumerate(name for name in wanted if name not in brought.specials.added)
    }
    if added or brought.template is None:
        _write_added(folder, added, None if brought.template else _chatml(brought))
    made = _open_brought(folder)
    if any(made.specials.added[name].id != number for name, number in added.items()):
        raise UserError(f"{source}: its tokenizer gives added tokens other ids than the next free ones; renumber it")
    return BroughtInto(made, added)


def require_fit(tokenizer: AnyTokenizer, rows: int, model: str) -> None:
    """Raises UserError where the tokenizer has ids that the model's embedding of `rows` rows has not."""
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{model} has embeddings for {rows} tokens and its tokenizer {tokenizer.vocab_size}; "
            "give the tokenizer that it was trained with, or enlarge the embedding"
        )


def _brought_kind(folder: Path) -> str | None:
    return next((name for name in (TOKENIZER_JSON, SENTENCEPIECE) if (folder / name).exists()), None)


def _open_brought(folder: Path) -> BroughtTokenizer:
    documented = read_documented(folder)
    if _brought_kind(folder) == TOKENIZER_JSON:
        vocabulary: Vocabulary = JsonVocabulary(folder, documented)
    else:
        # Here: sentencepiece is not in the environment of the benchmarks, which open tokenizer.json alone.
        from ilm_ray.data.tokenizer.sentencepiece_model import SentencePieceVocabulary

        vocabulary = SentencePieceVocabulary(folder, documented)
    return BroughtTokenizer(folder, vocabulary, documented)


def _chatml(tokenizer: BroughtTokenizer) -> str:
    return ("{{- bos_token -}}" if tokenizer.begins_documents else "") + CHATML


def _write_added(folder: Path, added: dict[str, int], template: str | None) -> None:
    """Write the tokens into tokenizer.json and tokenizer_config.json, the template into the latter."""
    rest: dict[str, Any] = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    rows = [{"id": number, "content": name, **rest} for name, number in added.items()]
    if (folder / TOKENIZER_JSON).exists():
        content = read_object(folder / TOKENIZER_JSON)
        content["added_tokens"] = (content.get("added_tokens") or []) + rows
        write_text_atomic(folder / TOKENIZER_JSON, json.dumps(content, ensure_ascii=False))
    config = read_object(folder / CONFIG)
    named = {str(row["id"]): {key: value for key, value in row.items() if key != "id"} for row in rows}
    config["added_tokens_decoder"] = (config.get("added_tokens_decoder") or {}) | named
    if template is not None:
        config["chat_template"] = template
    write_text_atomic(folder / CONFIG, json.dumps(config, indent=1, ensure_ascii=False))
