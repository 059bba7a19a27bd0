"""Properties of code points that the rules use, as bits of one table: a scan looks each character up once."""

import functools
import unicodedata

import numpy as np

from ilm_ray.data.documents import codepoints, scan

_CASED = 0x20000  # no letter beyond has a case
_MAX = 0x110000
# Categories of punctuation, without what stands for other things more often than not.
_NO_PUNCTUATION = "#*@\\_{}•‣†‡※"
_SENTENCE_ENDS = ".!?…。！？．｡؟۔।"
_LINE_ENDS = _SENTENCE_ENDS + ";；:：\"'”’」』》)）]】"


@functools.lru_cache(maxsize=1)
def flags() -> np.ndarray:
    """uint32 [0x110000]: the bits of each code point."""
    table = np.zeros(_MAX, np.uint32)
    classes = codepoints.token_classes()
    table[classes == codepoints.WORD] |= scan.IS_WORD
    table[classes == codepoints.HAN] |= scan.IS_HAN | scan.IS_LETTER | scan.IS_WIDE
    characters = list(map(chr, range(_CASED)))
    categories = np.array(list(map(unicodedata.category, characters)))
    kinds = categories.astype("U1")

    def mark(where: np.ndarray, bit: int) -> None:
        table[:_CASED][where] |= bit

    spaces = np.array([c.isspace() for c in characters])
    punctuation = (kinds == "P") & ~np.isin(characters, list(_NO_PUNCTUATION))
    mark(spaces, scan.IS_SPACE)
    mark(kinds == "L", scan.IS_LETTER)
    mark(categories == "Nd", scan.IS_DIGIT)
    mark((categories == "Lu") | (categories == "Lt"), scan.IS_UPPER)
    mark(categories == "Ll", scan.IS_LOWER)
    mark(punctuation, scan.IS_PUNCTUATION)
    mark(~spaces & ~punctuation & ~np.isin(kinds, ["L", "N", "M"]), scan.IS_SYMBOL)
    mark(np.array([unicodedata.east_asian_width(c) in "WF" for c in characters]), scan.IS_WIDE)
    table[_CASED:][classes[_CASED:] != codepoints.HAN] |= scan.IS_SYMBOL
    table[0xE0100:0xE01F0] ^= scan.IS_SYMBOL  # variation selectors are marks
    for bit, members in (
        (scan.IS_COMMA, ",;،，、；。：．"),
        (scan.IS_FULL_MARK, "！？"),
        (scan.IS_OPENING, "“‘「『（《〈【〔"),
        (scan.IS_SENTENCE_END, _SENTENCE_ENDS),
        (scan.IS_LINE_END, _LINE_ENDS),
        (scan.IS_BULLET, "•‣⁃◦▪▫●○■□◆◇►▶▸➤➢✓✔"),
        (scan.IS_BOUND, "的了们們"),
        (scan.IS_BOUND_NO_MORE, "确確士解不如然却卻结結断斷事的"),  # 的确, 了解, 了不起
        (scan.IS_TAIL, "".join(map(chr, range(0x80, 0xC0))) + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")),
    ):
        table[[ord(c) for c in members]] |= bit
    simplified, traditional = _common_han()
    table[traditional & ~simplified] |= scan.IS_TRADITIONAL
    table[(classes == codepoints.HAN) & ~traditional & ~simplified] |= scan.IS_RARE
    for first, last in ((0xFFFD, 0xFFFD), (0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)):
        table[first : last + 1] |= scan.IS_BROKEN
    return table


@functools.lru_cache(maxsize=1)
def lower_case() -> np.ndarray:
    """uint32 [0x20000]: the small letter of each code point, or itself where that is no single one."""
    table = np.arange(_CASED, dtype=np.uint32)
    for point in np.flatnonzero(flags()[:_CASED] & scan.IS_UPPER).tolist():
        small = chr(point).lower()
        if len(small) == 1:
            table[point] = ord(small)
    return table


def _common_han() -> tuple[np.ndarray, np.ndarray]:
    """bool [0x110000] twice: characters of GB 2312, and those of Big5's first level. Both list the characters of daily
    use."""
    tables = []
    for codec, firsts in (("gb2312", range(0xB0, 0xF8)), ("big5", range(0xA4, 0xC7))):
        members = np.zeros(_MAX, bool)
        pairs = b"".join(
            bytes((first, second)) for first in firsts for second in range(0x40, 0xFF) if _pair(codec, second)
        )
        members[[ord(c) for c in pairs.decode(codec, "ignore")]] = True
        tables.append(members & (codepoints.token_classes() == codepoints.HAN))
    return tables[0], tables[1]


def _pair(codec: str, second: int) -> bool:
    return second >= 0xA1 or (codec == "big5" and second < 0x7F)
