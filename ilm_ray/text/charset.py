"""Bytes of a page to text. Extractors ignore the declared charset, which turns Chinese pages into mojibake."""

import codecs
import re
from collections.abc import Iterator

import charset_normalizer

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,30})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,30})", re.IGNORECASE)
# Only real charsets: Python also knows codecs such as punycode that a page must not be able to ask for.
_KNOWN = re.compile(
    r"utf-?(8|16|16-?le|16-?be|32)|gbk?|gb2312|gb18030|gb_2312(-80)?|x-gbk|hz-gb-2312|big5(-?hkscs)?|(x-)?sjis|"
    r"shift[-_]jis|euc-(jp|kr)|iso-?2022-(jp|kr)|iso-?8859-\d\d?|latin-?1|windows-\d{3,4}|cp\d{3,4}|koi8-[ru]|"
    r"tis-620|(us-)?ascii|macintosh"
)
# What a label means on the web: GB2312 pages use GB18030 characters, Latin-1 pages those of windows-1252.
_MEANT = {
    **dict.fromkeys(("gb", "gb2312", "gbk", "x-gbk", "gb_2312", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "windows-1252"),
    **dict.fromkeys(("big5", "big5-hkscs", "big5hkscs"), "big5hkscs"),
    "x-sjis": "shift_jis",
    "macintosh": "mac_roman",
}
_HEAD = 2048  # bytes in which a declaration must lie (browsers look at 1024)
_SAMPLE = 50_000  # bytes that detection looks at
MAX_BROKEN = 0.01  # share of characters that a right charset may fail on


def decode(body: bytes, header_charset: str | None) -> tuple[str, str]:
    """(text, charset) of a page: byte order mark, HTTP header, <meta>, detection - in this order.

    A declared charset that fails on more than 1% of the characters is passed over. Text that is valid UTF-8 beyond
    ASCII is UTF-8 whatever is declared: no other charset's text looks like that.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    if not body.isascii() and _is_utf8(body):
        return body.decode("utf-8", "replace"), "utf-8"
    for declared in _declared(body, header_charset):
        text = body.decode(declared, "replace")
        if text.count("�") <= MAX_BROKEN * len(text):
            return text, declared
    best = charset_normalizer.from_bytes(body[:_SAMPLE]).best()
    detected = (_usable(best.encoding) if best is not None else None) or "utf-8"
    return body.decode(detected, "replace"), detected


def _declared(body: bytes, header_charset: str | None) -> Iterator[str]:
    labels = [header_charset or ""]
    for pattern in (_META, _XML):
        found = pattern.search(body[:_HEAD])
        labels.append(found.group(1).decode("ascii") if found else "")
    for label in labels:
        name = _usable(label)
        # A declaration readable as ASCII cannot be true of a charset with two or four bytes for every letter.
        if name is not None and not name.startswith(("utf-16", "utf-32")):
            yield name


def _usable(label: str) -> str | None:
    """Python's name of a charset label; None for labels that are none."""
    label = label.strip().lower().replace("_", "-") if label.lower() != "gb_2312-80" else "gb_2312-80"
    if not _KNOWN.fullmatch(label):
        return None
    name = _MEANT.get(label, label)
    try:
        return codecs.lookup(name).name
    except LookupError:  # e.g. windows-9999
        return None


def _is_utf8(body: bytes) -> bool:
    try:
        # A cap may have cut the last character: final=False forgives that.
        codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        return False
    return True
