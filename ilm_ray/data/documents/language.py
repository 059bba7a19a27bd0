"""Language of a text, and its tokens: words, and for Chinese single characters."""

import itertools
import re

import pycld2

UNKNOWN = "unknown"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKENS = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+")
MIN_TOKENS = 5  # of fewer words, or Chinese characters, a detector's verdict is a guess
# Chosen on manuals with and without Chinese (tests/data/web/test_charset_and_language.py).
SURE_PERCENT = 90  # of a text in one language, from which on pycld2 is believed whatever else is there
LEAST_HAN, MOST_HAN = 0.05, 0.3  # share of the letters; the second where pycld2 takes the rest for a third language
HAN_PER_WORD = 4  # Chinese characters to one English function word; a text in both languages has about three
FOREIGN = 0.05  # Japanese and Korean letters to one Han
_IS_HAN, _KANA_HANGUL = re.compile(f"[{_HAN}]"), re.compile("[\u3040-\u30ff\uac00-\ud7af]")
_LETTERS, _ENGLISH = re.compile(r"[^\W\d_]"), re.compile(r"\b(?:the|of|and|to|is|that|with|for|are|this)\b")
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

    Where it is unsure, a text with Chinese characters and hardly an English sentence is Chinese, and its share is that
    of its letters: commands, names and code outweigh the words around them in a manual. Traditional Chinese is "zh".
    """
    if len(list(itertools.islice(TOKENS.finditer(text), MIN_TOKENS))) < MIN_TOKENS:
        return UNKNOWN, 0.0
    try:
        reliable, _, details = pycld2.detect(text)
    except (pycld2.error, UnicodeEncodeError):  # most texts need no cleaning, and cleaning costs half of a detection
        reliable, _, details = pycld2.detect(interchange(text))
    _, code, percent, _ = details[0]
    code = "zh" if code.startswith("zh") else code
    if reliable and code != "un" and (code == "zh" or percent >= SURE_PERCENT):
        return code, percent / 100
    share = _chinese_share(text)
    if share >= (LEAST_HAN if code in ("zh", "en", "un") else MOST_HAN):
        return "zh", share
    return (code, percent / 100) if reliable and code != "un" else (UNKNOWN, 0.0)


def _chinese_share(text: str) -> float:
    """Share of Han in the letters of a text; 0 where it is Japanese or Korean, or has sentences in English."""
    han, others = len(_IS_HAN.findall(text)), len(_KANA_HANGUL.findall(text))
    if not han or others > FOREIGN * han or HAN_PER_WORD * len(_ENGLISH.findall(text)) > han:
        return 0.0
    return round(han / max(han, len(_LETTERS.findall(text))), 4)


def tokens(text: str) -> list[str]:
    """Lower-case words; each Chinese character is a token of its own."""
    return TOKENS.findall(text.lower())
