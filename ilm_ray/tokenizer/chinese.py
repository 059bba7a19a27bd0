"""Further tokens for Chinese: byte-pair merging goes on where the base vocabulary stops (report section 3.2.1)."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

_HAN = r"\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_PUNCTUATION = r"\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\u2014\u2018-\u201d\u2026\u00b7"
# The same pieces that cl100k's pattern cuts out of Chinese: letters with at most one sign before them, or signs alone.
# A merge across their borders could never be reached.
_WORDS = re.compile(f"[{_PUNCTUATION}]?[{_HAN}]+|[{_PUNCTUATION}]+")
# Base tokens stand for single characters of the private planes while the trainer runs.
_PRIVATE = 0xF0000
# In base tokens: eight characters written as bytes. Longer ones are the clauses of repeated boilerplate.
_LONGEST = 24


def chinese_words(text: str) -> list[str]:
    """Runs of Chinese letters and punctuation within which tokens are learned."""
    return _WORDS.findall(text)


def learn_tokens(texts: Iterable[str], ranks: Mapping[bytes, int], pattern: str, count: int) -> list[bytes]:
    """At most `count` new tokens in the order of their merges, the most frequent pair first.

    Each is the merge of two tokens that exist before it, and encoding its bytes arrives at exactly these two, so
    that a tokenizer with the ranks continued reaches it. Fewer come back where the texts have no repeated pair left.
    """
    if count == 0:
        return []
    base = tiktoken.Encoding("base", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={})
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer counts the alphabet too, and a few of its tokens fall below: ask for more, stop at `count`.
    trainer = trainers.BpeTrainer(
        vocab_size=len(ranks) + count + count // 10 + 100,
        min_frequency=2,
        max_token_length=_LONGEST,
        show_progress=False,
    )
    trained.train_from_iterator((_as_characters(base, text) for text in texts), trainer)
    by_rank = {rank: token for token, rank in ranks.items()}
    known, learned = dict(ranks), list[bytes]()
    for merge in json.loads(trained.to_str())["model"]["merges"]:
        token = b"".join(by_rank[ord(character) - _PRIVATE] for part in merge for character in part)
        if token not in known and len(merge_parts(token, known)) == 2:
            known[token] = len(known)
            learned.append(token)
            if len(learned) == count:
                break
    return learned


def merge_parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """`token` encoded by greedy merging, lowest rank first, with the tokens of `ranks` (itself not among them)."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        reachable = [(rank, i) for rank, i in pairs if rank is not None]
        if not reachable:
            break
        _, at = min(reachable)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The texts until `characters` have been seen; the last one is cut."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def _as_characters(base: tiktoken.Encoding, text: str) -> str:
    words = (base.encode_ordinary(word) for word in chinese_words(text))
    return " ".join("".join(chr(_PRIVATE + token) for token in word) for word in words if len(word) > 1)
