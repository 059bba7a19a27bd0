"""Held-out documents: the same answer however the files are cut, enough of them, never all."""

from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.data.tokens.split import MAX_SHARE, MIN_BYTES, Candidates, candidates, heldout_limit, merge, split_key

_SIZES = st.lists(st.integers(1, 60_000), min_size=2, max_size=60)


def _source(sizes: list[int]) -> tuple[list[tuple[int, int]], Candidates]:
    pairs = [(split_key(i), size) for i, size in enumerate(sizes)]
    return pairs, candidates(pairs)


@given(_SIZES, st.integers(1, 7))
def test_the_limit_does_not_depend_on_how_documents_are_cut_into_files(sizes: list[int], files: int) -> None:
    pairs, whole = _source(sizes)
    assert merge(candidates(pairs[i::files]) for i in range(files)) == whole


@given(_SIZES)
def test_at_least_one_document_and_enough_bytes_but_not_much_more(sizes: list[int]) -> None:
    pairs, whole = _source(sizes)
    limit = heldout_limit(whole, share=0.0)
    held = sorted(pair for pair in pairs if pair[0] < limit)
    assert 1 <= len(held) < len(pairs)
    size, total = sum(s for _, s in held), sum(sizes)
    following = sorted(pairs)[len(held)][1]
    assert size >= MIN_BYTES or size + following > MAX_SHARE * total
    assert len(held) == 1 or size <= MAX_SHARE * total


def test_the_share_rules_a_large_source_and_a_single_document_is_trained_on() -> None:
    pairs, whole = _source([1000] * 20_000)
    limit = heldout_limit(whole, share=0.05)
    assert 0.045 < sum(key < limit for key, _ in pairs) / len(pairs) < 0.055
    assert heldout_limit(_source([5])[1], share=0.5) == 0
