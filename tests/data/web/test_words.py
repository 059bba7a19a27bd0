"""Blocked words against a search of every word at every place."""

import gzip
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.data.web.safe.blocklist import Words, fold, read_words

LETTERS = st.text("aAbsßİıΣς坏话é\u0301 -.がア한ไ𠮷😀", max_size=20)


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("A Saucy remark.", ["saucy"]),
        ("unsaucy saucyness", []),
        ("this is velvet room, velvet rooms", ["velvet room"]),
        ("他们说胡说八道的话", ["胡说八道"]),
        ("胡说八道saucy", ["胡说八道", "saucy"]),
        ("ésaucy saucy\u0301", []),
        ("İİİ saucy İ saucyİ", ["saucy"]),
        ("욕설이 욕설", ["욕설"]),
        ("f**k! f**ks", ["f**k"]),
        ("\ud800saucy\udfff", ["saucy"]),
        ("", []),
    ],
)
def test_words_respect_word_borders_where_the_script_has_any(text: str, hits: list[str]) -> None:
    assert Words(["saucy", "Velvet Room", "胡说八道", "욕설", "f**k"]).matches(text) == hits


@given(st.lists(LETTERS.filter(lambda w: bool(w.strip())), max_size=6), LETTERS)
def test_one_pass_finds_what_a_search_at_every_place_finds(words: list[str], text: str) -> None:
    folded, matches = fold(text), []
    assert len(folded) == len(text)
    for last in range(len(text)):
        for word in {fold(w) for w in words}:
            first = last + 1 - len(word)
            if first >= 0 and folded[first : last + 1] == word:
                borders = ((first - 1, first), (last, last + 1))
                if not any(
                    left >= 0 and right < len(text) and both_inside(folded[left], folded[right])
                    for left, right in borders
                ):
                    matches.append((last, word))
    assert sorted(Words(words).matches(text)) == sorted(word for _, word in matches)


def both_inside(left: str, right: str) -> bool:
    return all(
        unicodedata.category(c)[0] in "LNM" and not any(unicodedata.name(c).startswith(s) for s in UNSPACED)
        for c in (left, right)
    )


UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI")


def test_word_lists_may_be_packed_folders_or_empty(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# only a comment\n\n")
    assert read_words(tmp_path / "list.txt") == [] and Words([]).matches("anything") == []
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "en").write_bytes("\ufeffSaucy\r\nsaucy\n".encode())
    with gzip.open(folder / "zh.gz", "wt") as out:
        out.write("胡说八道")
    assert read_words(folder) == ["saucy", "胡说八道"]


def test_word_lists_that_cannot_be_read_are_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("胡说八道".encode("gbk"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_words(tmp_path / "list.txt")
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "empty folder"), (tmp_path / "none.txt", "cannot read block list")):
        with pytest.raises(UserError, match=message):
            read_words(path)
