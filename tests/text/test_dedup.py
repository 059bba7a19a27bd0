"""Dedup against datasketch's own index and scipy, and against the formula of banding."""

import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ilm_ray.config.schema import TextConfig
from ilm_ray.corpus.jsonl import write_jsonl
from ilm_ray.text import steps
from ilm_ray.text.components import Edges, resolve, stars
from ilm_ray.text.language import tokens
from ilm_ray.text.minhash import Signer, bands_and_rows, catch_probability, exact_key, shingle_hashes
from ilm_ray.text.pipeline import find_duplicates
from ilm_ray.text.sources import ROW_BITS, Source

BANDS, ROWS = 14, 9


def oracle_clusters(documents: list[list[int]]) -> np.ndarray:
    """documents: shingle hashes. Label of a document = smallest index in its cluster, by datasketch and scipy."""
    signatures = MinHash.bulk(documents, num_perm=128, hashfunc=int)
    lsh = MinHashLSH(num_perm=128, params=(BANDS, ROWS))
    for i, m in enumerate(signatures):
        lsh.insert(i, m)
    edges = np.array([(i, j) for i, m in enumerate(signatures) for j in lsh.query(m)])
    n = len(documents)
    _, part = connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n)), directed=False)
    first = np.full(part.max() + 1, n)
    np.minimum.at(first, part, np.arange(n))
    return first[part]


def synthetic_texts(count: int, rng: random.Random) -> list[str]:
    """A third fresh texts, the rest copies of earlier ones with 0 to 12 changed words."""
    words = [f"w{i}" for i in range(5000)]
    texts: list[list[str]] = []
    for _ in range(count):
        if not texts or rng.random() < 0.34:
            texts.append(rng.choices(words, k=rng.randint(3, 150)))
        else:
            copy = list(rng.choice(texts))
            for _ in range(rng.randint(0, 12)):
                copy[rng.randrange(len(copy))] = rng.choice(words)
            texts.append(copy)
    return [" ".join(text) for text in texts]


def test_the_banding_is_the_reports() -> None:
    assert bands_and_rows(0.7, 128) == (BANDS, ROWS)


def test_signatures_are_datasketchs_even_for_long_documents() -> None:
    signer = Signer(128, BANDS, ROWS)
    for length in (1, 4, 5, 600, 20_000):
        hashes = shingle_hashes([f"x{i}" for i in range(length)], 5)
        expected = MinHash.bulk(
            [[h.tobytes() for h in hashes]], num_perm=128, hashfunc=lambda b: int.from_bytes(b, "little")
        )[0]
        assert np.array_equal(signer.signature(hashes), expected.hashvalues)


def test_shingles_stand_for_the_sets_of_ngrams() -> None:
    rng = random.Random(3)
    for _ in range(50):
        a = [rng.choice("abcdefgh") for _ in range(rng.randint(1, 60))]
        b = a[: rng.randint(1, len(a))] + [rng.choice("abcdefgh") for _ in range(rng.randint(0, 20))]
        grams = [{tuple(x[i : i + 5]) for i in range(max(1, len(x) - 4))} for x in (a, b)]
        ours = [set(shingle_hashes(x, 5).tolist()) for x in (a, b)]
        assert [len(s) for s in ours] == [len(s) for s in grams]
        assert len(ours[0] & ours[1]) == len(grams[0] & grams[1])


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_the_catch_rate_lies_on_the_curve(similarity: float) -> None:
    rng, pairs, size, caught = np.random.default_rng(7), 400, 300, 0
    signer = Signer(128, BANDS, ROWS)
    common = round(2 * size * similarity / (1 + similarity))
    for _ in range(pairs):
        values = rng.integers(0, 1 << 32, 2 * size - common, dtype=np.uint32)
        a, b = (signer.band_keys(signer.signature(part)) for part in (values[:size], values[size - common :]))
        caught += bool((a == b).any())
    p = catch_probability(common / (2 * size - common), BANDS, ROWS)
    assert p == pytest.approx(1 - (1 - (common / (2 * size - common)) ** 9) ** 14)
    assert abs(caught / pairs - p) <= 3 * (p * (1 - p) / pairs) ** 0.5 + 1 / pairs


def test_stars_and_components_equal_brute_force() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        keys = rng.integers(0, 40, 120).astype(np.uint64)
        ids = rng.integers(0, 50, 120).astype(np.uint64)
        _, edges = stars(keys, ids, np.zeros(120, bool))
        label = {int(i): int(i) for i in ids}
        for _ in range(len(label)):
            for key in set(keys.tolist()):
                members = [int(i) for i in ids[keys == key]]
                low = min(label[m] for m in members)
                label.update(dict.fromkeys(members, low))
        drops = resolve(edges)
        expected = {i: low for i, low in label.items() if i != low}
        assert dict(zip(drops.ids.tolist(), drops.duplicate_of.tolist(), strict=True)) == expected


def test_nothing_shared_means_nothing_dropped() -> None:
    empty = np.zeros(0, np.uint64)
    assert len(resolve(Edges(empty, empty, np.zeros(0, bool))).ids) == 0


@pytest.mark.parametrize("partitions", [1, 3])
def test_ray_gives_the_oracles_clusters_and_keeps_the_newest(local_ray: None, tmp_path: Path, partitions: int) -> None:
    texts = synthetic_texts(3000, random.Random(11))
    # Ids as in a run: three dumps, the newest has the smallest ids; files in another order than ids.
    files = [Source(i, rank, i, f"dump{rank}", f"{i}.warc") for i, rank in enumerate((2, 2, 1, 1, 0, 0))]
    rng = random.Random(12)
    owner = [rng.choice(files) for _ in texts]
    ids = [source.document_id(row) for row, source in enumerate(owner)]
    config = TextConfig()
    for source in files:
        rows = [{"id": i, "text": t} for i, t, o in zip(ids, texts, owner, strict=True) if o == source]
        write_jsonl(steps.outputs(tmp_path, "clean", source.index)[0], rows)
        steps.sign_file(source, tmp_path, config)
    drops = find_duplicates(tmp_path, files, partitions)
    found = dict(zip(drops.ids.tolist(), drops.duplicate_of.tolist(), strict=True))

    order = np.argsort(np.array(ids, np.uint64))  # the oracle labels by position, so give it the order of the ids
    words = [tokens(texts[i]) for i in order]
    label = oracle_clusters([shingle_hashes(w, 5).tolist() for w in words])
    expected = {ids[order[i]]: ids[order[j]] for i, j in enumerate(label) if i != j}
    assert found == expected and len(found) > 500

    seen: set[int] = set()
    exact = {ids[i] for i, w in zip(order, words, strict=True) if exact_key(w) in seen or seen.add(exact_key(w))}
    assert set(drops.ids[drops.exact].tolist()) == exact
    assert all(kept >> (20 + ROW_BITS) <= dropped >> (20 + ROW_BITS) for dropped, kept in found.items())
