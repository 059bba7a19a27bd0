"""Normalisation by example and by property; lines of the page's own go, lines of the text stay."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from tests.data.web.test_rules import EN, ZH, strings


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\r\nb\rc\u2028d\x0be\x85f", "a\nb\nc\nd\ne\nf"),
        ("\ufeff so\u00adft \u200bzero\u200b  \t wide\u202e\xa0x ", "soft zero wide x"),
        ("a\n\n \n\t\n\nb\n", "a\n\nb"),
        ("e\u0301 e\u200b\u0301", "é é"),
        ("bell\x07 and \ud800 and \U0001fffe", "bell and and"),
        ("می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष"),  # Persian and Hindi need their joiners
        ("a\u200cb c\u200dd", "ab cd"),
        ("\u3000\u200d\u3000 \u205f\u200d\u205f", ""),  # nothing to join between spaces
        ("👩\u200d👩\u200d👧 ❤️\u200d🔥 👩\u200d x", "👩\u200d👩\u200d👧 ❤️\u200d🔥 👩 x"),
        ("ＡＢＣ１２３（全角）！", "ABC123（全角）！"),
        ("你好 ，世界 。 再见\n！", "你好，世界。再见！"),
        ("欢 迎 光 临 本站 首页 新闻 体 育", "欢迎光临 本站 首页 新闻 体 育"),
        ("| |\n| | one cell | |\n| a | b |\n|", "one cell\n| a | b |"),
        ("for x in y:\n    go( x,  1)\n\n\n\n\tend  \n", "for x in y:\n    go( x, 1)\n\n\tend"),  # code
        ("type t =\n  | Leaf\n  | Node of t", "type t =\n  | Leaf\n  | Node of t"),
        ("一\n　　新的一段。\n    又是一段，很短。\n\xa0\xa0x", "一\n新的一段。\n又是一段，很短。\nx"),  # paragraphs
    ],
)
def test_examples(raw: str, expected: str) -> None:
    assert normalise(raw) == expected


@settings(max_examples=500)
@given(strings() | st.text(max_size=200) | st.text(alphabet="中国 \n\n\t，。|a\u200c\u200d👩م\u0301", max_size=60))
def test_twice_is_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\n\n\n" not in once and once == once.strip()
    assert all("  " not in line.lstrip(" \t") and line == line.rstrip() for line in once.split("\n"))
    cleaned, _ = drop_chrome(once)
    assert drop_chrome(cleaned) == (cleaned, 0) and normalise(cleaned) == cleaned


def test_good_text_stays_as_it_is() -> None:
    for text in (EN, ZH):
        assert drop_chrome(normalise(text)) == (text, 0)


def test_lines_of_the_page_go_and_are_counted() -> None:
    chrome = [
        *(
            "Read more...",
            "SHARE THIS:",
            "Skip to content",
            "1,204 likes",
            "3 comments",
            "Views: 1.2k",
            "分享到：",
            "阅读全文",
        ),
        *(
            "阅读(1203)",
            "12条评论",
            "Please enable JavaScript to view the comments.",
            "This site uses cookies.",
            "Accept cookies",
            "We use cookies to give you the best possible experience.",
            "By continuing to browse you agree to our use of cookies.",
            "Cookie settings",
            "本网站使用Cookie来改善您的体验。",
            "继续浏览即表示您同意使用 Cookie。",
            "请您启用JavaScript后继续",
            "This page requires JavaScript.",
        ),
    ]
    lines = [line for pair in zip(EN.split("\n") * 5, chrome, strict=False) for line in pair]
    text, removed = drop_chrome("\n".join(lines))
    assert removed == len(chrome)
    assert not set(text.split("\n")) & set(chrome)


@pytest.mark.parametrize(
    "line",
    [
        "He baked cookies for the whole village.",
        "JavaScript is a language, and most pages use it.",
        "I like to read more in winter.",
        "Share this recipe with a friend who likes plums.",
        "There were 3 comments, and none was kind.",
        "分享到的快乐总是加倍的。",
        "Use a cookie cutter to cut out stars and hearts.",
        "We use cookies to store the session id; the middleware signs them.",
        "When you accept cookies, the browser keeps them in a small database.",
        "By using a cookie scoop, all of them get the same size.",
        "The server uses a session cookie; the proxy does not.",
        "设置 Cookie 的过期时间需要用到 expires 属性。",
        "我们可以使用 Cookie 保存登录状态。",
        "If JavaScript is disabled, the form still works.",
        "To enable JavaScript modules, set the type of the script.",
        "while read line; do\n    next",
    ],
)
def test_sentences_that_sound_like_it_stay(line: str) -> None:
    assert drop_chrome(line) == (line, 0)
