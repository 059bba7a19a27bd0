"""Language of a text, and its tokens: words, and for Chinese single characters."""

import itertools
import re

import pycld2

UNKNOWN = "unknown"
_HAN = "㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff"
TOKENS = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+")
MIN_TOKENS = 5  # of fewer words, or Chinese characters, a detector's verdict is a guess
# cld2 refuses what is no interchange-valid Unicode: control characters, non-characters, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def interchange(text: str) -> str:
    """`text` without control characters (tab and line breaks stay), non-characters and lone surrogates."""
    return _UNSAFE.sub(" ", text)


def detect_language(text: str) -> tuple[str, float]:
    """(code, share of the text in it) by pycld2; ("unknown", 0) where it is not sure or has few words to go by.

    Traditional Chinese is "zh".
    """
    if len(list(itertools.islice(TOKENS.finditer(text), MIN_TOKENS))) < MIN_TOKENS:
        return UNKNOWN, 0.0
    try:
        reliable, _, details = pycld2.detect(text)
    except (pycld2.error, UnicodeEncodeError):  # most texts need no cleaning, and cleaning costs half of a detection
        reliable, _, details = pycld2.detect(interchange(text))
    _, code, percent, _ = details[0]
    if not reliable or code == "un":
        return UNKNOWN, 0.0
    return ("zh" if code.startswith("zh") else code), percent / 100


def tokens(text: str) -> list[str]:
    """Lower-case words; each Chinese character is a token of its own."""
    return TOKENS.findall(text.lower())
