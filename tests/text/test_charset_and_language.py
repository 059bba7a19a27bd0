"""Charsets: who is believed; language of texts that pycld2 chokes on; tokens."""

import pytest

from ilm_ray.text.charset import decode
from ilm_ray.text.language import detect_language, tokens

CHINESE = "春天来了，山谷里的桃花开得很好，人们在河边散步，孩子们放着风筝。" * 4
TRADITIONAL = "這個地方的天氣變化得很快，誰也不知道雨什麼時候會再來。" * 4
FRENCH = "L'été dernier, nous étions à la mer; le café y était très cher, mais délicieux."


def html(text: str, meta: str = "") -> str:
    declared = f'<meta charset="{meta}">' if meta else ""
    return f"<html><head>{declared}<title>x</title></head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        (html(CHINESE).encode("gbk"), "gbk", CHINESE),  # header only
        (html(CHINESE + "镕").encode("gb18030"), "gb2312", CHINESE + "镕"),  # a character that GB2312 lacks
        (html(CHINESE, "gb2312").encode("gbk"), None, CHINESE),  # meta only
        (html(TRADITIONAL, "big5").encode("big5"), "no-such-charset", TRADITIONAL),
        (b"\xef\xbb\xbf" + html(CHINESE).encode("utf-8"), "gbk", CHINESE),  # wrong header, right mark
        (b"\xff\xfe" + html(FRENCH).encode("utf-16-le"), "iso-8859-1", FRENCH),
        (html(CHINESE, "utf-8").encode("gbk"), None, CHINESE),  # wrong meta: detection
        (html(CHINESE).encode("gbk"), "utf-8", CHINESE),  # wrong header: detection
        (html(CHINESE).encode("utf-8"), "iso-8859-1", CHINESE),  # wrong header that never fails
        (html(FRENCH + " “ok” €").encode("cp1252"), "iso-8859-1", FRENCH + " “ok” €"),
        (html(FRENCH, "punycode").encode("utf-8"), "unicode_escape", FRENCH),
    ],
)
def test_decode(body: bytes, header: str | None, text: str) -> None:
    decoded, _ = decode(body, header)
    assert text in decoded
    assert "\ufffd" not in decoded


def test_one_broken_byte_does_not_change_the_charset() -> None:
    body = html(CHINESE, "utf-8").encode("utf-8")
    decoded, charset = decode(body[:200] + b"\xff" + body[200:], "utf-8")
    assert charset == "utf-8" and decoded.count("\ufffd") <= 3


@pytest.mark.parametrize("dirt", ["\x03", "\x7f", "\x85", "\ufffe", "\U0001fffe", "\ud800", "\ufdd0"])
def test_language_id_survives_what_is_not_interchange_valid(dirt: str) -> None:
    text = f"The weather in the mountains changes quickly{dirt} and nobody knows when the rain will come back. " * 3
    assert detect_language(text)[0] == "en"


def test_languages() -> None:
    assert detect_language(CHINESE)[0] == "zh"
    assert detect_language(TRADITIONAL)[0] == "zh"
    assert detect_language(FRENCH * 3)[0] == "fr"
    assert detect_language("")[0] == "unknown"


def test_tokens_are_words_and_chinese_characters() -> None:
    assert tokens("Hello, World! 春天来了 x2") == ["hello", "world", "春", "天", "来", "了", "x2"]
