"""Further tokens for Chinese: byte-pair merging goes on where the base vocabulary stops (report section 3.2.1)."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ilm_ray.data.tokenizer.encoder import PATTERN

_HAN = r"\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_PUNCTUATION = r"\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\u2014\u2018-\u201d\u2026\u00b7"
# The same pieces that cl100k's pattern cuts out of Chinese: letters with at most one sign before them, or signs alone;
# a sign after another one or after a space is theirs. A merge across these borders could never be reached.
_WORDS = re.compile(rf"(?:(?<![^\s\w]|[_ ])[{_PUNCTUATION}])?[{_HAN}]+|[{_PUNCTUATION}]+")
_LONGEST = 8  # characters; longer tokens are the clauses of repeated boilerplate


def chinese_words(text: str) -> list[str]:
    """Runs of Chinese letters and punctuation within which tokens are learned."""
    return _WORDS.findall(text)


def learn_tokens(texts: Iterable[str], ranks: Mapping[bytes, int], count: int) -> list[bytes]:
    """At most `count` new tokens, the most frequent merge first.

    The bytes of characters are merged first and characters then, so a token is whole characters or the first bytes of
    one. Each is the merge of two tokens that exist before it, and encoding its bytes arrives at exactly these two, so
    that a tokenizer with the ranks continued reaches it. Fewer come back where the texts have no repeated pair left.
    The same texts give the same tokens, in any order of arrival.
    """
    if count == 0:
        return []
    lines = [" ".join(chinese_words(text)) for text in texts]
    merged = Counter[str]()
    for line in lines:
        merged.update(line.replace(" ", ""))
    if not merged:
        return []
    base = tiktoken.Encoding("base", pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens={})
    characters = {c: [base.decode_single_token_bytes(i) for i in base.encode_ordinary(c)] for c in sorted(merged)}
    # Merges that make characters; sorted by frequency together with those that join them, and before their equals.
    steps = [(merged[c], b"".join(parts[:end])) for c, parts in characters.items() for end in range(2, len(parts) + 1)]
    steps += _joined(lines, len(merged) + count)
    known, learned = dict(ranks), list[bytes]()
    for times, token in sorted(steps, key=lambda step: -step[0]):
        if times < 2 or len(learned) == count:
            break
        if token not in known and len(merge_parts(token, known)) == 2:
            known[token] = len(known)
            learned.append(token)
    return learned


def merge_parts(token: bytes, ranks: Mapping[bytes, int], below: int = 1 << 62) -> list[bytes]:
    """`token` encoded by greedy merging, lowest rank first, with the tokens of `ranks` whose rank is under `below`."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        rank, at = min((ranks.get(a + b, below), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        if rank >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The texts until `characters` have been seen; the last one is cut."""
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def _joined(lines: Sequence[str], size: int) -> list[tuple[int, bytes]]:
    """(how often it was made, token) of the merges of characters in their order. lines: words between spaces;
    size: of characters and merges together, of which a few more are made, since some fall away."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size + size // 10 + 100, min_frequency=2, max_token_length=_LONGEST, show_progress=False
    )
    trained.train_from_iterator(lines, trainer)
    # A merge was made as often as its token stands in the encoded text, alone or within tokens merged from it.
    made = Counter(token for line in lines for token in trained.encode(line).tokens)
    merges = json.loads(trained.to_str())["model"]["merges"]
    for left, right in reversed(merges):
        made[left] += made[left + right]
        made[right] += made[left + right]
    return [(made[left + right], (left + right).encode()) for left, right in merges]
