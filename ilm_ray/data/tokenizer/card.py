"""Figures of a vocabulary: parts, compression by language against cl100k, learned tokens, tokens never reached."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ilm_ray.data.tokenizer.cl100k import cl100k_encoding
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer

LISTED = 20  # tokens that are named one by one


def describe(tokenizer: Tokenizer, base: int, target: int, samples: Mapping[str, str]) -> dict[str, Any]:
    """The card as JSON. base: number of cl100k tokens; target: learned tokens wanted; samples: by language."""
    learned = tokenizer.tokens[base:]
    numbers = range(base, len(tokenizer.tokens))
    unreached = [number for number in numbers if witness(tokenizer, number) is None]
    return {
        "vocab_size": tokenizer.vocab_size,
        "base_tokens": base,
        "learned_tokens": len(learned),
        "learned_tokens_asked": target,
        "spare_ids": tokenizer.vocab_size - len(tokenizer.tokens) - len(SPECIALS),
        "special_tokens": len(SPECIALS),
        "unreachable_learned_tokens": len(unreached),
        "unreachable_ids": unreached[:LISTED],
        "bytes_per_token": {name: compression(tokenizer, text) for name, text in samples.items() if text},
        "learned_tokens_by_characters": lengths(learned),
        "first_learned": [_shown(token) for token in learned[:LISTED]],
        "last_learned": [_shown(token) for token in learned[-LISTED:]],
    }


def compression(tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Bytes, and bytes per token of this vocabulary and of cl100k, on a text that is not empty."""
    size = len(text.encode("utf-8", "replace"))
    ours, theirs = len(tokenizer.encode(text)), len(cl100k_encoding().encode_ordinary(text))
    return {
        "bytes": size,
        "this": round(size / ours, 3),
        "cl100k": round(size / theirs, 3),
        "ratio": round(theirs / ours, 3),
    }


def lengths(tokens: list[bytes]) -> dict[str, int]:
    """Counts of tokens with 1, 2, ... characters; "0": those that only begin one."""
    counts = Counter(len(token.decode("utf-8", errors="ignore")) for token in tokens)
    return {str(characters): counts[characters] for characters in sorted(counts)}


def witness(tokenizer: Tokenizer, number: int) -> str | None:
    """A text whose encoding has the id `number`; None where no such text is found.

    For a token of whole characters it is the token itself; for the first bytes of a character, one that so begins.
    """
    token = tokenizer.tokens[number]
    return next((text for text in _texts(token) if number in tokenizer.encode(text)), None)


def _texts(token: bytes) -> Iterator[str]:
    try:
        yield token.decode("utf-8")
        return
    except UnicodeDecodeError:
        size = 2 if token[0] < 0xE0 else 3 if token[0] < 0xF0 else 4
    for rest in itertools.product(range(0x80, 0xC0), repeat=max(size - len(token), 0)):
        text = (token + bytes(rest)).decode("utf-8", errors="ignore")
        if len(text) == 1:
            yield text


def _shown(token: bytes) -> str:
    """Text of a token; bytes of an unfinished character as \\xe5."""
    return token.decode("utf-8", errors="backslashreplace")
