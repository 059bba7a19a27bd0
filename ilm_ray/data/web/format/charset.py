"""Bytes of a page to text. Extractors ignore the declared charset, which turns Chinese pages into mojibake."""

import codecs
import itertools
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding

_ASCII, _BEYOND_ASCII = bytes(range(128)), bytes(range(128, 256))
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,30})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,30})", re.IGNORECASE)
# Only real charsets: Python also knows codecs such as punycode that a page must not be able to ask for.
_KNOWN = re.compile(
    r"utf-?(8|16|16-?le|16-?be|32)|gbk?|gb2312|gb18030|gb_2312(-80)?|x-gbk|hz-gb-2312|big5(-?hkscs)?|(x-)?sjis|uhc|"
    r"shift[-_]jis|euc-(jp|kr)|iso-?2022-(jp|kr)|iso-?8859-\d\d?|latin-?1|windows-\d{3,4}|cp\d{3,4}|koi8-[ru]|"
    r"tis-620|(us-)?ascii|macintosh"
)
# What a label means on the web: GB2312 pages use GB18030 characters, Latin-1 pages those of windows-1252.
_MEANT = {
    **dict.fromkeys(("gb", "gb2312", "gbk", "x-gbk", "gb_2312", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "windows-1252"),
    **dict.fromkeys(("big5", "big5-hkscs", "big5hkscs"), "big5hkscs"),
    # Shift-JIS and EUC-KR pages use the characters that Microsoft's code pages added.
    **dict.fromkeys(("shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "uhc"), "cp949"),
    **dict.fromkeys(("iso-8859-9", "iso8859-9", "latin-5"), "windows-1254"),
    **dict.fromkeys(("iso-8859-11", "iso8859-11", "tis-620"), "cp874"),
    "macintosh": "mac_roman",
}
# Their texts look like nothing else once there are some dozens of characters, so a detector may overrule a declaration.
_DISTINCT = {"gb18030", "big5hkscs", "cp932", "euc_jp", "cp949"} | {
    *("cp1251", "koi8-r", "cp1253", "iso8859-7", "cp1255", "cp1256", "cp874")
}
_HEAD = 2048  # bytes in which a declaration must lie (browsers look at 1024)
_SAMPLE = 50_000  # bytes that detection looks at
_EVIDENCE = 100  # bytes beyond ASCII in the sample that make a detector's word count
_MARKUP = 16  # letters that a page's head has at the least
MAX_BROKEN = 0.2  # share of the characters beyond ASCII that a right charset may fail on: a page has many authors


def decode(body: bytes, header_charset: str | None) -> tuple[str, str]:
    """(text, charset) of a page: byte order mark, HTTP header, <meta>, detection - in this order.

    A declared charset that fails on a fifth of the characters beyond ASCII is passed over, and so is one where the
    bytes are clearly those of another script. Text that is valid UTF-8 beyond ASCII is UTF-8, against any declaration:
    no other charset's text looks like that.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    if wide := _wide(body[:_HEAD]):
        return body.decode(wide, "replace"), wide
    if body.isascii() or _is_utf8(body):
        return body.decode("utf-8", "replace"), "utf-8"
    sample = body[:_SAMPLE]
    detected = _usable(detect_encoding(sample, html5_compatible=False) or "") or "utf-8"
    sure = detected in _DISTINCT and len(sample.translate(None, _ASCII)) >= _EVIDENCE
    for name in itertools.chain([detected] if sure else [], _declared(body, header_charset)):
        text = body.decode(name, "replace")
        beyond_ascii = len(text) - len(body.translate(None, _BEYOND_ASCII))
        if text.count("\ufffd") <= MAX_BROKEN * beyond_ascii:
            return text, name
    return body.decode(detected, "replace"), detected


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: its markup has a zero in every other byte (so has U+4E00, but on the other side)."""
    zeros = [head[parity::2].count(0) for parity in (0, 1)]
    if max(zeros) < _MARKUP or min(zeros) > max(zeros) // 4:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _declared(body: bytes, header_charset: str | None) -> Iterator[str]:
    labels = [header_charset or ""]
    for pattern in (_META, _XML):
        match = pattern.search(body[:_HEAD])
        labels.append(match.group(1).decode("ascii") if match else "")
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
