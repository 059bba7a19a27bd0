"""Texts as arrays of code points: rules and signatures scan a batch at a time, not a character at a time."""

import functools
from collections.abc import Sequence

import numpy as np

from ilm_ray.data.documents.language import TOKENS

SEPARATOR, WORD, HAN = 0, 1, 2


def flatten(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint32 code points of all texts one after the other, int64 [n + 1] where each text begins and ends)."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    borders = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=borders[1:])
    return points, borders


@functools.lru_cache(maxsize=1)
def token_classes() -> np.ndarray:
    """uint8 [0x110000]: is a code point a separator, part of a word, or a Chinese character (a token of its own)?

    Read off the regular expression that defines tokens, so that both are one definition.
    """
    classes = np.zeros(0x110000, np.uint8)
    for match in TOKENS.finditer("".join(map(chr, range(0x110000)))):
        first, last = match.span()
        # A lone character may be a word by itself too; a Chinese one stays apart even from its own copy.
        classes[first:last] = HAN if last - first == 1 and len(TOKENS.findall(match[0] * 2)) == 2 else WORD
    return classes
