"""The stream of a source: whole documents one after the other, each as often as its weight says."""

from collections import Counter
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.data.tokens.stream import Piece, Stream
from tests.data.tokens.made_source import make_source

Documents = list[tuple[int, float]]  # length, weight
QUARTERS = st.integers(1, 16).map(lambda n: n / 4)
DOCUMENTS = st.lists(st.tuples(st.integers(0, 40), QUARTERS), min_size=1, max_size=12)
STEPS = st.lists(st.integers(1, 70), min_size=1, max_size=12)


def _stream(
    factory: pytest.TempPathFactory, documents: Documents, seed: int = 0, chosen: list[int] | None = None
) -> tuple[Stream, TokenSource]:
    lengths, weights = zip(*documents, strict=True)
    assume(any(lengths))
    source = make_source(factory.mktemp("source"), lengths, weights)
    return Stream("s", source, np.arange(len(source)) if chosen is None else np.array(chosen), (seed, 0)), source


def _whole_documents(pieces: list[Piece], source: TokenSource) -> list[int]:
    """The documents of pieces that follow each other without gap or overlap, from a document's start to one's end."""
    documents, at = list[int](), 0
    for piece in pieces:
        if at == 0:
            documents.append(piece.document)
        assert (piece.document, piece.start) == (documents[-1], at) and piece.stop > piece.start
        at = piece.stop % int(source.lengths[piece.document])
    assert at == 0
    return documents


@settings(max_examples=60)
@given(DOCUMENTS, st.integers(1, 3))
def test_over_whole_passes_every_document_appears_weight_times_passes_times(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, fours: int
) -> None:
    stream, source = _stream(tmp_path_factory, documents)
    passes = 4 * fours  # with weights in quarters every document is then due a whole number of times
    total = round(sum(length * weight * passes for length, weight in documents))
    counts = Counter(_whole_documents(stream.pieces(0, total), source))
    assert counts == {i: weight * passes for i, (length, weight) in enumerate(documents) if length}


@settings(max_examples=60)
@given(DOCUMENTS, STEPS, st.integers(0, 10_000))
def test_any_windows_are_the_stream_cut(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, steps: list[int], start: int
) -> None:
    """What comes at a position does not depend on what was asked before, nor on the size of the windows."""
    stream, source = _stream(tmp_path_factory, documents)
    borders = [start, *(start + np.cumsum(steps)).tolist()]
    cut = [stream.pieces(a, b - a) for a, b in pairwise(borders)]
    assert [sum(p.stop - p.start for p in window) for window in cut] == steps
    fresh, _ = _stream(tmp_path_factory, documents)
    whole = fresh.pieces(start, sum(steps))
    assert _tokens(source, [p for window in cut for p in window]) == _tokens(source, whole)
    assert stream.pieces(*borders[:1], steps[0]) == cut[0]


def _tokens(source: TokenSource, pieces: list[Piece]) -> list[int]:
    return [t for p in pieces for t in source.tokens(p.document)[p.start : p.stop].tolist()]


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=8), st.integers(1, 40))
def test_any_weight_is_kept_to_within_one_copy_after_every_pass(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float], passes: int
) -> None:
    stream, source = _stream(tmp_path_factory, [(5, weight) for weight in weights])
    total = stream._start(passes)
    counts = Counter(_whole_documents(stream.pieces(0, total), source)) if total else Counter[int]()
    for i, weight in enumerate(weights):
        assert abs(counts[i] - weight * passes) < 1 + 1e-3


def test_copies_of_a_document_lie_a_share_of_the_pass_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    documents = [(10, float(weight)) for weight in (1, 2, 3) for _ in range(100)]
    stream, source = _stream(tmp_path_factory, documents)
    order = np.array(_whole_documents(stream.pieces(0, 6000), source))
    for document, (_, weight) in enumerate(documents):
        places = np.flatnonzero(order == document)
        assert len(places) == weight
        assert np.all(np.diff(places) > 600 / weight * 0.75)


def test_passes_and_seeds_have_orders_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    documents = [(3, 1.0)] * 50
    stream, source = _stream(tmp_path_factory, documents)
    other, _ = _stream(tmp_path_factory, documents, seed=1)
    orders = [_whole_documents(s.pieces(at, 150), source) for s, at in ((stream, 0), (stream, 150), (other, 0))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_a_subset_holds_its_documents_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    stream, source = _stream(tmp_path_factory, [(n, 1.0) for n in range(1, 20)], chosen=[2, 5, 11])
    assert sorted(_whole_documents(stream.pieces(0, 3 + 6 + 12), source)) == [2, 5, 11]


def test_fractions_of_weights_are_spread_over_the_passes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Half of the documents of weight 0.5 are in the first pass, the other half in the second."""
    stream, source = _stream(tmp_path_factory, [(1, 0.5)] * 2000)
    first = Counter(_whole_documents(stream.pieces(0, stream._start(1)), source))
    assert 900 < len(first) < 1100 and max(first.values()) == 1
    both = Counter(_whole_documents(stream.pieces(0, 2000), source))
    assert len(both) == 2000


class Huge:
    """A source of 20 trillion tokens, as far as a stream looks at it."""

    lengths = np.full(20, 10**12)
    weights = np.ones(20, np.float32)
    ids = np.arange(20)


def test_a_source_of_many_trillion_tokens_is_gone_through_as_any_other() -> None:
    stream = Stream("s", cast(TokenSource, Huge()), np.arange(20), (0, 0))
    assert stream.tokens_per_pass == 2e13
    (before, after) = stream.pieces(2 * 10**13 - 5, 10)  # the end of a pass and the beginning of the next
    assert (before.start, before.stop) == (10**12 - 5, 10**12) and (after.start, after.stop) == (0, 5)
