"""The tokenizer of full size, learned from real text (benchmarks/tokenizer.py prints the whole comparison)."""

from pathlib import Path

import pytest

from benchmarks.tokenizer import BASE, CHINESE, VOCABULARY, Document, compare, documents
from ilm_ray.data.tokenizer.base import count_tokens, first_tokens, most_used_tokens
from ilm_ray.data.tokenizer.card import witness
from ilm_ray.data.tokenizer.chinese import learn_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k, cl100k_encoding
from ilm_ray.data.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[Document]:
    return list(documents(shared_data))


def _ratio(tokenizer: Tokenizer, texts: list[Document], language: str) -> float:
    """Bytes per token against cl100k's, on the held-out files of the corpus."""
    heldout = [d.text for d in texts if d.language == language and d.heldout and "other" not in d.kind]
    row = compare({"": heldout}, {"ours": tokenizer.encode, "cl100k": cl100k_encoding().encode_ordinary})[""]
    return row["ours"] / row["cl100k"]


def test_all_ids_are_there_all_learned_tokens_are_reached_and_held_out_chinese_gains(texts: list[Document]) -> None:
    ranks, _ = cl100k()
    base = first_tokens(ranks, BASE)
    chinese = [d.text for d in texts if d.language == "zh" and not d.heldout]
    learned = learn_tokens(chinese, {token: rank for rank, token in enumerate(base)}, CHINESE)
    again = learn_tokens(chinese[::-1], {token: rank for rank, token in enumerate(base)}, CHINESE)
    assert learned == again  # the order of the documents does not matter
    tokenizer = Tokenizer(base + learned, VOCABULARY)
    assert (len(learned), tokenizer.encoding.n_vocab) == (CHINESE, 92_544)
    for number in range(BASE, len(tokenizer.tokens)):
        text = witness(tokenizer, number)
        assert text is not None
        if text.encode() == tokenizer.tokens[number]:
            assert tokenizer.encode(tokenizer.decode([number])) == [number]
    for document in texts:
        if document.heldout:
            assert tokenizer.decode(tokenizer.encode(document.text)) == document.text
    assert _ratio(tokenizer, texts, "zh") >= 1.3


def test_the_most_used_base_is_within_one_percent_of_cl100k_on_english_and_code(texts: list[Document]) -> None:
    ranks, _ = cl100k()
    known = [d.text for d in texts if d.language in ("en", "code") and not d.heldout]
    base = most_used_tokens(ranks, count_tokens(cl100k_encoding(), known), BASE)
    tokenizer = Tokenizer(base, VOCABULARY)
    assert _ratio(tokenizer, texts, "en") >= 0.99
    assert _ratio(tokenizer, texts, "code") >= 0.99
