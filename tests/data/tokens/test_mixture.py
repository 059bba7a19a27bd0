"""The mixture: exact shares, whole documents, short and long ones, the same order for every layout."""

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokens.mixture import MAX_PASSES, Mixture
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.data.tokens.turns import BLOCK
from ilm_ray.model.loss import IGNORE
from tests.data.tokens.made_source import make_source

SHORT = 20


@pytest.fixture()
def sources(tmp_path: Path) -> dict[str, TokenSource]:
    generator = np.random.default_rng(0)
    en = make_source(tmp_path / "en" / "train", generator.integers(2, 90, 40).tolist(), shards=3)
    weights = [1.0, 3.0, 1.7, 2.25, 0.5, 1.0, 3.0, 3.0, 1.0]
    lengths = generator.integers(2, 90, 9).tolist()
    return {"en": en, "code": make_source(tmp_path / "code" / "train", lengths, weights, en.total_tokens)}


def test_shares_are_shares_of_sequences_and_so_of_tokens(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 3, "code": 1}, context=16, seed=5)
    drawn = Counter(p.source for i in range(3 * BLOCK) for p in mixture.pieces(i) for _ in range(p.start, p.stop))
    assert drawn == {"en": 16 * 3 * BLOCK * 3 // 4, "code": 16 * 3 * BLOCK // 4}


def test_every_source_is_gone_through_document_by_document(sources: dict[str, TokenSource]) -> None:
    """Sequences in the order of their numbers, source by source: no token is left out or comes twice."""
    mixture = Mixture(sources, {"en": 2, "code": 1}, context=16, seed=5)
    sequences = 400
    for name, source in sources.items():
        pieces = [p for i in range(sequences) for p in mixture.pieces(i) if p.source == name]
        for before, after in itertools.pairwise(pieces):
            if before.stop < source.lengths[before.document]:
                assert (after.document, after.start) == (before.document, before.stop)
            else:
                assert after.start == 0
        ends = Counter(p.document for p in pieces if p.stop == source.lengths[p.document])
        (drawn,) = [d for d in mixture.drawn(sequences) if d.source == name]
        assert drawn.tokens == sum(p.stop - p.start for p in pieces)
        for document, weight in enumerate(source.weights.tolist()):
            assert abs(ends[document] - weight * drawn.passes) <= weight + 1


def test_what_was_drawn_is_what_counting_finds(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 2, "code": 1}, 32, 5, short_share=0.5, short_context=SHORT)
    sequences = 333
    counted = Counter((part.source, part.kind) for part in map(mixture.part, range(sequences)))
    assert {(d.source, d.kind): d.sequences for d in mixture.drawn(sequences)} == dict(counted)
    code = sources["code"]
    for drawn in mixture.drawn(sequences):
        if drawn.source == "code":
            pool = (code.lengths < SHORT) == (drawn.kind == "short")
            assert drawn.documents == pool.sum()
            per_pass = float((code.lengths * code.weights)[pool].sum())
            assert drawn.passes == pytest.approx(drawn.tokens / per_pass, rel=1e-3)


@pytest.mark.parametrize("readers", [1, 2, 4, 8])
def test_every_layout_reads_the_same_batch(sources: dict[str, TokenSource], readers: int) -> None:
    mixture = Mixture(sources, {"en": 2, "code": 1}, 24, 1, short_share=0.5, short_context=SHORT)
    whole = mixture.batch(48, 8)[0].tokens.view(8, 24)
    for rank in range(readers):
        fresh = Mixture(sources, {"code": 1, "en": 2}, 24, 1, short_share=0.5, short_context=SHORT)
        part = fresh.batch(48 + rank, 8 // readers, stride=readers)[0].tokens.view(-1, 24)
        assert torch.equal(part, whole[rank::readers])


def test_labels_are_the_next_token_of_the_same_document(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture({"en": sources["en"]}, {"en": 1}, 24, 1, short_share=0.5, short_context=7, sequences=10**6)
    assert len(mixture.notes) == 2  # so that cut documents are among them
    batch, labels = mixture.batch(0, 64)
    last = {int(sources["en"].tokens(i)[-1]) for i in range(len(sources["en"]))}
    for token, label in zip(batch.tokens.tolist(), labels.tolist(), strict=True):
        assert label == (IGNORE if token in last else token + 1)
    starts = batch.cu_seqlens[:-1].tolist()
    lengths = np.diff(batch.cu_seqlens.numpy())
    assert batch.positions.tolist() == [i for n in lengths for i in range(n)]
    assert all(batch.positions[s] == 0 for s in starts) and batch.max_seqlen == lengths.max()
    assert len(batch.tokens) == 64 * 24


def _lengths_by_kind(mixture: Mixture, sources: Mapping[str, TokenSource]) -> dict[str, Counter[bool]]:
    """kind of part -> of its pieces, how many are of documents shorter than SHORT."""
    counts: dict[str, Counter[bool]] = {}
    for number in range(2 * BLOCK):
        pieces = mixture.pieces(number)
        kind = counts.setdefault(mixture.part(number).kind, Counter())
        kind.update(bool(sources[p.source].lengths[p.document] < SHORT) for p in pieces)
    return counts


def test_half_of_the_sequences_are_made_of_short_documents(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 1, "code": 1}, 64, 1, short_share=0.5, short_context=SHORT)
    assert Counter(mixture.part(i).kind for i in range(BLOCK)) == {"short": BLOCK // 2, "long": BLOCK // 2}
    counts = _lengths_by_kind(mixture, sources)
    assert counts["short"].keys() == {True} and counts["long"].keys() == {False}
    assert mixture.notes == []


def test_marked_documents_are_the_long_ones(sources: dict[str, TokenSource]) -> None:
    marks = np.zeros(40, bool)
    marks[[3, 17, 30]] = True
    both = {"en": sources["en"]}
    mixture = Mixture(both, {"en": 1}, 64, 1, 0.5, SHORT, {"en": marks})
    drawn = {kind: set[int]() for kind in ("short", "long")}
    for number in range(BLOCK):
        drawn[mixture.part(number).kind] |= {p.document for p in mixture.pieces(number)}
    assert drawn["long"] == {3, 17, 30}
    assert drawn["short"] == set(np.flatnonzero(sources["en"].lengths < SHORT).tolist())


def test_without_short_or_long_documents_all_take_their_place(tmp_path: Path) -> None:
    only_long = {"en": make_source(tmp_path / "a" / "train", [50, 60, 70])}
    mixture = Mixture(only_long, {"en": 1}, 64, 1, 0.5, SHORT)
    assert mixture.notes == ["en: no short documents; all take their place"]
    for number in range(BLOCK):
        longest = max(p.stop - p.start for p in mixture.pieces(number))
        assert longest <= SHORT if mixture.part(number).kind == "short" else longest > SHORT
    only_short = {"en": make_source(tmp_path / "b" / "train", [5, 6, 7])}
    assert Mixture(only_short, {"en": 1}, 64, 1, 0.5, SHORT).notes == ["en: no long documents; all take their place"]
    unmarked = Mixture(only_long, {"en": 1}, 64, 1, 0.5, SHORT, {"en": np.zeros(3, bool)})
    assert unmarked.notes == [f"en: no {kind} documents; all take their place" for kind in ("short", "long")]
    for both in (mixture, unmarked):  # both parts walk one stream: no token comes twice before all have come once
        pieces = [p for number in range(30) for p in both.pieces(number)]
        tokens = [t for p in pieces for t in only_long["en"].tokens(p.document)[p.start : p.stop].tolist()]
        assert sorted(tokens[:180]) == list(range(180))


def test_few_short_documents_are_not_read_again_and_again(tmp_path: Path) -> None:
    source = {"en": make_source(tmp_path / "train", [10, *[60] * 50])}
    enough = Mixture(source, {"en": 1}, 64, 1, 0.5, SHORT, sequences=1)
    assert enough.notes == []
    few = Mixture(source, {"en": 1}, 64, 1, 0.5, SHORT, sequences=2)
    assert few.notes == ["en: short documents would be read 6 times; all take their place"]
    assert 64 / 10 > MAX_PASSES >= 32 / 10


def test_absent_sources_give_their_share_to_the_others(sources: dict[str, TokenSource]) -> None:
    with_absent = Mixture(sources, {"en": 1, "zh": 2, "code": 1}, context=8, seed=0)
    without = Mixture(sources, {"en": 1, "code": 1}, context=8, seed=0)
    assert [with_absent.pieces(i) for i in range(BLOCK)] == [without.pieces(i) for i in range(BLOCK)]
    with pytest.raises(UserError, match="no token of zh"):
        Mixture(sources, {"zh": 1}, context=8, seed=0)
