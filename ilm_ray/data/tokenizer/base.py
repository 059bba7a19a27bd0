"""Which tokens of cl100k make the base of the vocabulary (report section 3.2.1: "the top 60,004").

The first ones, as in the released models; or those that a corpus needs most, which lose far less on it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tiktoken

from ilm_ray.data.tokenizer.chinese import merge_parts


def first_tokens(ranks: Mapping[bytes, int], size: int) -> list[bytes]:
    """The `size` tokens of the lowest ranks, lowest first."""
    return sorted(ranks, key=ranks.__getitem__)[:size]


def count_tokens(encoding: tiktoken.Encoding, texts: Iterable[str]) -> np.ndarray:
    """int64 (n_vocab): how often each id of `encoding` stands in `texts`."""
    counts = np.zeros(encoding.n_vocab, np.int64)
    for text in texts:
        ids, times = np.unique(np.array(encoding.encode_ordinary(text), np.int64), return_counts=True)
        counts[ids] += times
    return counts


def most_used_tokens(ranks: Mapping[bytes, int], counts: np.ndarray, size: int) -> list[bytes]:
    """The single bytes and the tokens of the highest `counts`, `size` (>= 256) in all, lowest rank first.

    counts: by rank. A token counts for at least as much as the tokens that are merged from it, so all that stay are
    reached by the same merges as before. Among equals, the lower rank stays.
    """
    tokens = first_tokens(ranks, len(ranks))
    need = np.array(counts[: len(tokens)], np.float64)
    for rank in range(len(tokens) - 1, -1, -1):
        token = tokens[rank]
        if len(token) == 1:
            need[rank] = np.inf
            continue
        for part in merge_parts(token, ranks, below=rank):
            need[ranks[part]] = max(need[ranks[part]], need[rank])
    # Stable: parts come before what is merged from them, in rank and so among equals too.
    return [tokens[rank] for rank in np.sort(np.argsort(-need, kind="stable")[:size])]
