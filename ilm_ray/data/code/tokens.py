"""Length of a document before there is a tokenizer: in tokens of cl100k, into which ours cuts code too."""

import functools

import tiktoken

from ilm_ray.data.tokenizer.cl100k import cl100k


def count_tokens(text: str) -> int:
    """The number of cl100k tokens; nothing counts as a special token. Raises UserError where the ranks are missing."""
    return len(_encoding().encode_ordinary(text))


@functools.cache
def _encoding() -> tiktoken.Encoding:
    ranks, pattern = cl100k()
    return tiktoken.Encoding("cl100k", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
