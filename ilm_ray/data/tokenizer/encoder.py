"""Text -> ids in compiled loops: the ids that tiktoken gives for cl100k's splitting pattern, several times as fast.

Split: the alternatives of PATTERN, tried in their order at each position, over classes of code points that tiktoken's
own regular expressions name. Merge: the pair of neighbours whose joined bytes are the token of the lowest rank, the
leftmost first, until no pair is a token. Merging begins with whole characters instead of bytes where no token can tell.
Spans of bytes are looked up by a polynomial hash, and then compared byte by byte.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tiktoken
from numba import njit, types

from ilm_ray.data.documents.jit import INTS, kernel

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
OTHER, LETTER, NUMBER, SPACE, NEWLINE = range(5)  # classes of code points; the last two are white space
LONGEST = 512  # bytes of a piece that is merged here: the loop is quadratic; tiktoken has another one for long pieces

_LONG_S = 0x17F  # the one code point outside ASCII that (?i:[sdmt]) matches
_NONE = np.iinfo(np.int32).max  # no token
_BASE = np.uint64(0x9E3779B97F4A7C15)
_POWERS = np.array([pow(int(_BASE), i, 1 << 64) for i in range(LONGEST + 1)], np.uint64)
_ONE = np.uint64(1)
_FOLD = np.uint64(29)
_IDS = np.uint64((1 << 24) - 1)  # bits of a place in the table that hold an id

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


class Vocabulary(NamedTuple):
    """Tokens by id. The borders of characters are told by two bytes: the last of one, the first of the next."""

    blob: np.ndarray  # uint8: bytes of all tokens
    ends: np.ndarray  # int64 (tokens + 1): where each starts in the blob, and the end
    table: np.ndarray  # uint64 (a power of two): upper bits of a token's hash, and below them its id + 1
    done: np.ndarray  # int32 (tokens): highest rank merged on the way to a character of several bytes; others: _NONE
    unsafe: np.ndarray  # bool (65536): borders that some token crosses which may be made before both sides are whole


class Scratch(NamedTuple):
    """Room for one piece."""

    prefix: np.ndarray  # uint64 (LONGEST + 1): hashes of its beginnings
    starts: np.ndarray  # int32 (LONGEST + 1): where its parts start, and the end
    ranks: np.ndarray  # int32 (LONGEST + 1): of a part joined with the next one


_VOCABULARY = types.NamedTuple(
    (types.uint8[::1], types.int64[::1], types.uint64[::1], types.int32[::1], types.boolean[::1]), Vocabulary
)


class Encoder:
    """tokens: the bytes of ids 0, 1, ...; lower ids merge first; all 256 bytes are among them."""

    def __init__(self, tokens: Sequence[bytes], encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding  # of the same tokens and PATTERN: for texts with pieces longer than LONGEST
        self._vocabulary = Vocabulary(
            blob=np.frombuffer(bytearray(b"".join(tokens)), np.uint8),
            ends=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
            table=np.zeros(1 << (2 * len(tokens)).bit_length(), np.uint64),
            done=np.full(len(tokens), _NONE, np.int32),
            unsafe=np.zeros(1 << 16, np.bool_),
        )
        _prepare(self._vocabulary)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint32 ids of every text. Lone surrogates become U+FFFD, as in tiktoken."""
        parts = [_utf8(text) for text in texts]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        data = np.frombuffer(b"".join(parts), np.uint8)
        ids, counts = np.empty(len(data), np.uint32), np.empty(len(texts), np.int64)
        _encode(data, ends, code_point_classes(), self._vocabulary, ids, counts)
        return [
            ids[start : start + count].copy()  # not a view: `ids` has a place for every byte
            if count >= 0
            else np.array(self._encoding.encode_ordinary(text), np.uint32)
            for text, start, count in zip(texts, ends[:-1].tolist(), counts.tolist(), strict=True)
        ]


@functools.cache
def code_point_classes() -> np.ndarray:
    """uint8 (0x110000): the class of each code point in tiktoken's regular expressions, in their version of Unicode."""
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    classes = np.full(0x110000, OTHER, np.uint8)
    for pattern, number in ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE), (r"[\r\n]", NEWLINE)):
        bytewise = tiktoken.Encoding(
            "bytes", pat_str=pattern, mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
        )
        characters = bytes(bytewise.encode_ordinary(everything)).decode()
        classes[np.frombuffer(characters.encode("utf-32-le"), np.uint32)] = number
    return classes


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


# --- pieces ----------------------------------------------------------------------------------------------------------


@njit(inline="always")
def _point(data: np.ndarray, at: int) -> tuple[int, int]:
    """(code point, where the next one starts) in valid UTF-8."""
    first = int(data[at])
    if first < 0x80:
        return first, at + 1
    second = int(data[at + 1]) & 63
    if first < 0xE0:
        return (first & 31) << 6 | second, at + 2
    third = int(data[at + 2]) & 63
    if first < 0xF0:
        return (first & 15) << 12 | second << 6 | third, at + 3
    return (first & 7) << 18 | second << 12 | third << 6 | (int(data[at + 3]) & 63), at + 4


@njit
def _run(data: np.ndarray, at: int, stop: int, classes: np.ndarray, wanted: int, most: int) -> int:
    """End of the run of at most `most` code points of class `wanted` that starts at `at`."""
    while at < stop and most > 0:
        point, following = _point(data, at)
        if classes[point] != wanted:
            break
        at = following
        most -= 1
    return at


@njit
def _contraction(data: np.ndarray, at: int, stop: int) -> int:
    """End of (?i:[sdmt]|ll|ve|re) at `at`, or `at`."""
    if at == stop:
        return at
    first, following = _point(data, at)
    if first == _LONG_S:
        return following
    first |= 32
    if first == 115 or first == 100 or first == 109 or first == 116:
        return following
    if following == stop:
        return at
    second = int(data[following]) | 32
    if (first == 108 and second == 108) or ((first == 118 or first == 114) and second == 101):
        return following + 1
    return at


@njit
def _piece_end(data: np.ndarray, at: int, stop: int, classes: np.ndarray) -> int:
    """End of PATTERN's match at `at`."""
    point, following = _point(data, at)
    kind = classes[point]
    if point == 39:
        end = _contraction(data, following, stop)
        if end > following:
            return end
    if kind == LETTER:
        return _run(data, following, stop, classes, LETTER, stop)
    if kind == NUMBER:
        return _run(data, following, stop, classes, NUMBER, 2)
    if kind != NEWLINE:
        end = _run(data, following, stop, classes, LETTER, stop)
        if end > following:
            return end
    signs_start = following if point == 32 else at
    signs = _run(data, signs_start, stop, classes, OTHER, stop)
    if signs > signs_start:
        return _run(data, signs, stop, classes, NEWLINE, stop)
    end = last = line_end = at  # of the white space: its end, its last character, behind its last line break
    while end < stop:
        point, following = _point(data, end)
        if classes[point] < SPACE:
            break
        last, end = end, following
        if classes[point] == NEWLINE:
            line_end = end
    if end == stop:
        return end
    if line_end > at:
        return line_end
    return last if last > at else end


# --- merges ----------------------------------------------------------------------------------------------------------


@njit
def _set_prefix(data: np.ndarray, at: int, size: int, prefix: np.ndarray) -> None:
    for i in range(size):
        prefix[i + 1] = prefix[i] * _BASE + np.uint64(data[at + i] + 1)


@njit
def _token(data: np.ndarray, at: int, first: int, last: int, prefix: np.ndarray, v: Vocabulary) -> int:
    """Id of the token data[at + first : at + last] in the piece at `at`; _NONE if there is none."""
    key = prefix[last] - prefix[first] * _POWERS[last - first]
    mask = np.uint64(len(v.table) - 1)
    place = (key ^ key >> _FOLD) & mask
    while v.table[place]:
        if (v.table[place] ^ key) <= _IDS:
            token = int(v.table[place] & _IDS) - 1
            start = v.ends[token]
            same = v.ends[token + 1] - start == last - first
            i = 0
            while same and i < last - first:
                same = v.blob[start + i] == data[at + first + i]
                i += 1
            if same:
                return token
        place = (place + _ONE) & mask
    return _NONE


@njit
def _merge(data: np.ndarray, at: int, parts: int, s: Scratch, v: Vocabulary) -> tuple[int, int]:
    """Merge the `parts` of the piece at `at`; (how many are left, highest rank that was merged or -1)."""
    starts, ranks = s.starts, s.ranks
    for i in range(parts - 1):
        ranks[i] = _token(data, at, starts[i], starts[i + 2], s.prefix, v)
    highest = -1
    while parts > 1:
        best, lowest = 0, ranks[0]
        for i in range(1, parts - 1):
            if ranks[i] < lowest:
                best, lowest = i, ranks[i]
        if lowest == _NONE:
            break
        highest = max(highest, lowest)
        for i in range(best + 1, parts):
            starts[i] = starts[i + 1]
        for i in range(best + 1, parts - 2):
            ranks[i] = ranks[i + 1]
        parts -= 1
        for i in range(max(best - 1, 0), min(best + 1, parts - 1)):
            ranks[i] = _token(data, at, starts[i], starts[i + 2], s.prefix, v)
    return parts, highest


@njit
def _size(first: int) -> int:
    """Bytes of the character that begins with byte `first`; 0 where none does."""
    return 1 if first < 0x80 else 0 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@njit
def _cut(data: np.ndarray, at: int, size: int, s: Scratch, v: Vocabulary) -> int:
    """Cut the piece into bytes, and into characters where that cannot change the merges; how many parts.

    A character between two safe borders is made whole by its own merges before anything that contains it can be made.
    """
    parts, i, safe_before = 0, 0, True
    while i < size:
        length = _size(data[at + i])
        following = i + length
        border = at + following
        safe = following == size or not v.unsafe[int(data[border - 1]) << 8 | int(data[border])]
        whole = False
        if length > 1 and safe_before and safe:
            token = _token(data, at, i, following, s.prefix, v)
            whole = token != _NONE and v.done[token] != _NONE
        for j in range(i, i + 1 if whole else following):
            s.starts[parts] = j
            parts += 1
        i, safe_before = following, safe
    s.starts[parts] = size
    return parts


@njit
def _is_sound(at: int, size: int, s: Scratch, v: Vocabulary) -> bool:
    """Whether the token at `at` of the blob is whole characters, each of them made by lower ranks than its own."""
    token = _token(v.blob, at, 0, size, s.prefix, v)
    i = 0
    while i < size:
        length = _size(v.blob[at + i])
        if length == 0 or i + length > size:
            return False
        if 1 < length < size:
            character = _token(v.blob, at, i, i + length, s.prefix, v)
            if character != _NONE and v.done[character] != _NONE and v.done[character] >= token:
                return False
        i += length
    return True


@njit
def _scratch() -> Scratch:
    return Scratch(np.zeros(LONGEST + 1, np.uint64), np.empty(LONGEST + 1, np.int32), np.empty(LONGEST + 1, np.int32))


@kernel(_VOCABULARY)
def _prepare(v: Vocabulary) -> None:
    """Fill `table`, `done` and `unsafe` from the tokens."""
    s = _scratch()
    tokens, mask = len(v.ends) - 1, np.uint64(len(v.table) - 1)
    for token in range(tokens):
        key = np.uint64(0)
        for i in range(v.ends[token], v.ends[token + 1]):
            key = key * _BASE + np.uint64(v.blob[i] + 1)
        place = (key ^ key >> _FOLD) & mask
        while v.table[place]:
            place = (place + _ONE) & mask
        v.table[place] = (key & ~_IDS) | np.uint64(token + 1)
    for token in range(tokens):
        at, size = v.ends[token], v.ends[token + 1] - v.ends[token]
        if size > 1 and size == _size(v.blob[at]):
            _set_prefix(v.blob, at, size, s.prefix)
            for i in range(size + 1):
                s.starts[i] = i
            parts, highest = _merge(v.blob, at, size, s, v)
            if parts == 1:
                v.done[token] = highest
    for token in range(tokens):
        at, size = v.ends[token], v.ends[token + 1] - v.ends[token]
        if size <= LONGEST:
            _set_prefix(v.blob, at, size, s.prefix)
            if not _is_sound(at, size, s, v):
                for i in range(at + 1, at + size):
                    if _size(v.blob[i]):
                        v.unsafe[int(v.blob[i - 1]) << 8 | int(v.blob[i])] = True


@kernel(_BYTES, INTS, types.uint8[::1], _VOCABULARY, types.uint32[::1], types.int64[::1])
def _encode(
    data: np.ndarray, text_ends: np.ndarray, classes: np.ndarray, v: Vocabulary, ids: np.ndarray, counts: np.ndarray
) -> None:
    """Ids of text t at ids[text_ends[t]:], counts[t] of them; -1 where a piece is longer than LONGEST."""
    s = _scratch()
    for text in range(len(text_ends) - 1):
        at, stop, written = text_ends[text], text_ends[text + 1], text_ends[text]
        while at < stop:
            end = _piece_end(data, at, stop, classes)
            size = end - at
            if size > LONGEST:
                break
            _set_prefix(data, at, size, s.prefix)
            token = _token(data, at, 0, size, s.prefix, v)
            if token != _NONE:
                ids[written] = token
                written += 1
            else:
                parts, _ = _merge(data, at, _cut(data, at, size, s, v), s, v)
                for i in range(parts):
                    ids[written + i] = _token(data, at, s.starts[i], s.starts[i + 1], s.prefix, v)
                written += parts
            at = end
        counts[text] = written - text_ends[text] if at == stop else -1
