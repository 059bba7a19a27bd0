"""`tokenizer.json`: byte-level BPE and vocabularies in sentencepiece's style, through the `tokenizers` library."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.documented import TOKENIZER_JSON, Added, Documented, read_bounded
from ilm_ray.data.tokenizer.huggingface import byte_letters

SPACE = "\u2581"  # stands for a space in sentencepiece's pieces
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a piece that is one byte
_LARGEST = 1 << 22  # ids


class JsonVocabulary:
    """Raises UserError where the file is damaged, samples merges at random, or is of a kind whose bytes nobody can
    count."""

    def __init__(self, folder: Path, documented: Documented) -> None:
        path = folder / TOKENIZER_JSON
        data = read_bounded(path)
        try:
            content = json.loads(data)
            self._start = _opened(content, documented)
            self.prefix_everywhere, changed = _without_prefix(content)
            self._onward = _opened(content, documented) if changed else self._start
            parts = list(_parts(content))
            if content["model"].get("dropout"):
                raise ValueError("its merges are sampled: model.dropout must be null")
        except UserError:
            raise
        except BaseException as error:  # the library's panics are no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"{path} is no tokenizer ({str(error)[:200]}); copy it anew") from None
        self._names = self._start.get_vocab(with_added_tokens=True)
        self._byte_level = any(part.get("type") == "ByteLevel" for part in parts)
        spaced = any(
            part.get("type") == "Metaspace" or (part.get("type") == "Replace" and part.get("content") in (SPACE, " "))
            for part in parts
        )
        if not self._byte_level and not spaced:
            raise UserError(f"{path} is neither byte-level nor in sentencepiece's style; such a tokenizer is not taken")
        self.size = 1 + max(self._names.values(), default=-1)
        if not 0 < self.size <= _LARGEST:
            raise UserError(f"{path} has ids up to {self.size - 1}; a vocabulary has between 1 and {_LARGEST}")
        self.added = {
            token.content: Added(number, token.special, token.lstrip, token.rstrip)
            for number, token in self._start.get_added_tokens_decoder().items()
        }
        first = self._start.encode("", add_special_tokens=True).ids
        self.begins = documented.begins if documented.begins is not None else bool(first)
        self.default_tokens = dict[str, str]()

    def id_of(self, name: str) -> int | None:
        return self._names.get(name)

    def names(self) -> Iterator[tuple[str, int]]:
        yield from self._names.items()

    def piece(self, number: int) -> str:
        """The text that a vocabulary may take for the id."""
        return self._start.id_to_token(number) or ""

    def encode(self, text: str, at_start: bool) -> list[int]:
        """Ids of a text. at_start: with the space in front that some vocabularies add to a text's first word."""
        tokenizer = self._start if at_start else self._onward
        return tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._start.decode(ids, skip_special_tokens=False)

    def byte_lengths(self) -> np.ndarray:
        lengths, letters = np.zeros(self.size, np.int64), set(byte_letters().values())
        for name, number in self._names.items():
            if name in self.added:
                lengths[number] = 0 if self.added[name].special else len(name.encode())
            elif self._byte_level:
                lengths[number] = len(name) if letters.issuperset(name) else len(name.encode())
            else:
                lengths[number] = 1 if BYTE.fullmatch(name) else len(name.replace(SPACE, " ").encode())
        return lengths


def _opened(content: dict[str, Any], documented: Documented) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Tokens that only tokenizer_config.json calls special; the others are unchanged.
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    wanted = [*documented.tokens.values(), *(name for name, added in documented.added.items() if added.special)]
    tokenizer.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False)
            for name in dict.fromkeys(wanted)
            if name not in known and tokenizer.token_to_id(name) is not None
        ]
    )
    tokenizer.encode_special_tokens = True  # their names in a text are text
    return tokenizer


def _parts(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The normalizers, pre-tokenizers and decoders, those in sequences too."""
    waiting = [content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            for key in ("normalizers", "pretokenizers", "decoders"):
                waiting += part.get(key) or []


def _without_prefix(content: dict[str, Any]) -> tuple[bool, bool]:
    """Change `content` so that no text gets a space in front; (whether every stretch had one, whether any had)."""
    everywhere = changed = False
    for part in _parts({**content, "decoder": None}):
        if part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            everywhere = everywhere or part.get("prepend_scheme", "always") == "always"
            part["prepend_scheme"], changed = "never", True
            part.pop("add_prefix_space", None)
        elif part.get("type") == "ByteLevel" and part.get("add_prefix_space"):
            part["add_prefix_space"], everywhere, changed = False, True, True
        elif part.get("type") == "Prepend" and part.get("prepend"):
            part.clear()
            part.update({"type": "Replace", "pattern": {"String": SPACE}, "content": SPACE})
            everywhere = changed = True
    return everywhere, changed
