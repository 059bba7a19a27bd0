"""The compiled encoder against tiktoken, with vocabularies and texts that are made to tell them apart."""

import random
import tarfile
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.data.tokenizer.cl100k import cl100k, cl100k_encoding
from ilm_ray.data.tokenizer.encoder import LONGEST, PATTERN, Encoder

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "text"
# What the pattern tells apart: contractions in both cases and the long s, digits of several scripts, all kinds of
# white space, characters of one to four bytes, combining marks.
ALPHABET = list("aAsSdDtTlLvVeErRmM''\u2019ſK \n\r\t\x0b\x85\u00a0\u2028\u3000123٣²é\u0301ж三国演义，。!?.-_ǅʼ😀𠀀")


def peer(tokens: list[bytes]) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def full() -> Encoder:
    ranks, pattern = cl100k()
    assert pattern == PATTERN
    return Encoder(sorted(ranks, key=ranks.__getitem__), cl100k_encoding())


@pytest.mark.long
@settings(max_examples=500)  # the first call learns the classes of code points
@given(st.lists(st.text(st.one_of(st.sampled_from(ALPHABET), st.characters(codec=None)), max_size=60)))
def test_ids_are_tiktokens(full: Encoder, texts: list[str]) -> None:
    assert [ids.tolist() for ids in full.encode(texts)] == [cl100k_encoding().encode_ordinary(t) for t in texts]


@pytest.mark.long
def test_every_code_point_is_split_as_tiktoken_splits_it(full: Encoder) -> None:
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    rows = [points[i : i + 1024] for i in range(0, len(points), 1024)]
    texts = ["".join(f"a{c}b {c}1{c}\n" for c in row) for row in rows]
    for text, ids in zip(texts, full.encode(texts), strict=True):
        assert ids.tolist() == cl100k_encoding().encode_ordinary(text)


@pytest.mark.parametrize("seed", range(60))
def test_any_vocabulary_merges_as_in_tiktoken(seed: int) -> None:
    """Tokens that cut characters, cross their borders, or come before what they are made of."""
    rng = random.Random(seed)
    letters = rng.sample("天地玄黄宇宙日月éжaü😀𠀀", 5)

    def cut() -> bytes:
        data = "".join(rng.choices(letters, k=4)).encode()
        start = rng.randrange(len(data))
        return data[start : start + rng.randint(2, 6 if seed % 2 else 9)]

    def whole() -> bytes:
        return "".join(rng.choices(letters, k=rng.randint(1, 3))).encode()

    made = {cut() if rng.random() < (0.1, 0.5, 0.9)[seed % 3] else whole() for _ in range(rng.randint(5, 120))}
    if seed % 4:  # what characters are made of stands in front, as in vocabularies that were learned
        made |= {letter.encode()[:n] for letter in letters for n in (2, 3, 4)}
    longer = [token for token in made if len(token) > 1]
    rng.shuffle(longer)
    if seed % 4 > 1:
        longer.sort(key=len)
    tokens = [bytes([i]) for i in range(256)] + longer
    texts = ["".join(rng.choices(letters, k=rng.randint(1, 40))) for _ in range(400)]
    encoding = peer(tokens)
    token_ids = Encoder(tokens, encoding).encode(texts)
    assert [ids.tolist() for ids in token_ids] == encoding.encode_ordinary_batch(texts)


def test_a_piece_of_any_length_is_encoded(full: Encoder) -> None:
    texts = [letter * n for letter in ("a", "天", ".") for n in (1, 170, LONGEST - 1, LONGEST, LONGEST + 1, 20_000)]
    texts = ["", *(f"before {text} behind" for text in texts)]
    assert [ids.tolist() for ids in full.encode(texts)] == cl100k_encoding().encode_ordinary_batch(texts)
    assert full.encode([]) == []


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the real texts are not at hand")
def test_real_text_gets_tiktokens_ids(full: Encoder) -> None:
    texts = [path.read_text(errors="replace") for path in sorted(DATA.glob("books_*/*.txt"))]
    with tarfile.open(DATA / "docs" / "pingcap-docs-cn-md.tar.gz") as archive:
        for member in archive.getmembers()[::5]:
            if (file := archive.extractfile(member)) is not None:
                texts.append(file.read().decode(errors="replace"))
    assert len(texts) > 50
    for text, ids in zip(texts, full.encode(texts), strict=True):
        assert ids.tolist() == cl100k_encoding().encode_ordinary(text)
