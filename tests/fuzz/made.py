"""Hostile bytes, texts and JSON: drawn freely, or made from whole files by damaging them."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What has broken readers before: numbers without end, depth, half characters, names that lead elsewhere, markup.
ODD_TEXTS = (
    "", "\0", "\n", "\r\n", "\ud800", "\udfff", "\ufeff", "\u202e", "\x1b[31m", "9" * 5000, "-1", "1e400", "NaN", "0x",
    "../x", "/etc/passwd", "..", "a/../../b", "C:\\x", "\\\\host\\x", "a" * 300, "<script>alert(1)</script>", "\"'><",
    "{{7*7}}", "<|im_end|>", "2020-99-99", "!!python/object:os.system", "&a [*a]", "%s%n", "½", "²",
)  # fmt: skip
# Lone surrogates are drawn too: JSON can name them, UTF-8 has none.
texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(), max_size=20))
numbers = st.one_of(
    st.integers(), st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30]), st.floats(), st.just(float("nan"))
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
deep = st.integers(1, 20_000).map(lambda depth: "[" * depth)
_PIECES = (
    b"\0", b"\xff", b"\n", b"\r\n", b"\r\n\r\n", b"{", b"[" * 3000, b"\"", b":", b",", b"-1", b"9" * 5000,
    b"\xed\xa0\x80", b"../", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"NaN",
    b"&a",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of the originals with up to six places cut, doubled, exchanged, overwritten or filled."""
    data = bytearray(draw(st.sampled_from(list(originals))))
    for _ in range(draw(st.integers(0, 6))):
        at, length = draw(st.integers(0, len(data))), draw(st.sampled_from([1, 1, 2, 4, 16, 200]))
        how = draw(st.sampled_from(["cut", "end", "double", "flip", "fill", "put", "number"]))
        if how == "cut":
            del data[at : at + length]
        elif how == "end":
            del data[at:]
        elif how == "double":
            data[at:at] = data[at : at + length]
        elif how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "number" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == "fill":
            data[at : at + length] = bytes([draw(st.sampled_from([0, 0x20, 0x39, 0xFF]))]) * length
        elif how == "put":
            data[at:at] = draw(st.sampled_from(_PIECES))
    return bytes(data)


@st.composite
def rewritten(draw: st.DrawFn, original: Any, depth: int = 0) -> Any:
    """A JSON value that is much like the original: here and there a value is another, a key is gone or new."""
    if depth and draw(st.integers(0, 5)) == 0:
        return draw(values)
    if isinstance(original, dict):
        entries = {key: draw(rewritten(value, depth + 1)) for key, value in original.items() if draw(st.integers(0, 9))}
        return entries | draw(st.dictionaries(texts, scalars, max_size=1))
    if isinstance(original, list):
        return [draw(rewritten(value, depth + 1)) for value in original]
    return original


def as_json(value: Any) -> bytes:
    """As other people's programs write it: NaN stays, and a lone surrogate is named by its number."""
    return json.dumps(value).encode()


lines = st.lists(
    st.one_of(values.map(as_json), deep.map(str.encode), st.binary(max_size=30), st.sampled_from(ODD_TEXTS[5:]).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )),
    max_size=5,
).map(b"\n".join)  # fmt: skip
