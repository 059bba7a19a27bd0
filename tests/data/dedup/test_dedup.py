"""Dedup against datasketch's own index and scipy, against brute force, and against the formula of banding."""

import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ilm_ray.base.jsonl import batches
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.components import Edges, clusters, keepers, stars
from ilm_ray.data.dedup.minhash import (
    bands_and_rows,
    catch_probability,
    shingle_hashes,
    sign_batch,
    similarity,
    token_hashes,
)
from ilm_ray.data.dedup.pipeline import Signed, find_duplicates
from ilm_ray.data.documents import paths
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.language import tokens
from ilm_ray.data.documents.passes import BATCH, FileTask
from ilm_ray.data.documents.sources import FILE_BITS, ROW_BITS, Source
from ilm_ray.data.web import steps

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
    """A third fresh texts, the rest copies of earlier ones with 0 to 12 changed words; English, Chinese and mixed."""
    words = [f"w{i}" for i in range(5000)] + [chr(0x4E00 + i) for i in range(2000)]
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


def sign(texts: list[str]) -> np.ndarray:
    return sign_batch(texts, 5, 128, BANDS, ROWS).signatures


def test_the_banding_is_the_reports() -> None:
    assert bands_and_rows(0.7, 128) == (BANDS, ROWS)


def test_signatures_are_datasketchs_even_for_long_documents() -> None:
    texts = [" ".join(f"x{i}" for i in range(length)) for length in (0, 1, 4, 5, 600, 20_000)]
    for text, signature in zip(texts, sign(texts), strict=True):
        (expected,) = MinHash.bulk([shingle_hashes(text, 5).tolist()], num_perm=128, hashfunc=int)
        assert np.array_equal(signature, expected.hashvalues)


@settings(max_examples=300)
@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=40), max_size=5))
def test_hashed_tokens_are_the_tokens_of_language(texts: list[str]) -> None:
    hashes, borders = token_hashes(texts)
    named: dict[str, int] = {}
    for text, (first, last) in zip(texts, pairwise(borders.tolist()), strict=True):
        expected = tokens(text)
        assert last - first == len(expected)
        for token, value in zip(expected, hashes[first:last].tolist(), strict=True):
            assert named.setdefault(token, value) == value
    assert len(set(named.values())) == len(named)


def test_shingles_stand_for_the_sets_of_ngrams() -> None:
    rng = random.Random(3)
    for _ in range(50):
        a = [rng.choice("abcdefgh") for _ in range(rng.randint(1, 60))]
        b = a[: rng.randint(1, len(a))] + [rng.choice("abcdefgh") for _ in range(rng.randint(0, 20))]
        grams = [{tuple(x[i : i + 5]) for i in range(max(1, len(x) - 4))} for x in (a, b)]
        ours = [set(shingle_hashes(" ".join(x), 5).tolist()) for x in (a, b)]
        assert [len(s) for s in ours] == [len(s) for s in grams]
        assert len(ours[0] & ours[1]) == len(grams[0] & grams[1])


def test_a_batch_changes_nothing_and_exact_keys_ignore_case_and_spacing() -> None:
    texts = synthetic_texts(60, random.Random(4))
    whole = sign_batch(texts, 5, 128, BANDS, ROWS)
    for i, text in enumerate(texts):
        alone = sign_batch([f" {text.upper()},\n"], 5, 128, BANDS, ROWS)
        assert np.array_equal(alone.bands[0], whole.bands[i]) and alone.exact[0] == whole.exact[i]
    different = {tuple(tokens(text)) for text in texts}
    assert len(set(whole.exact.tolist())) == len(different)


@pytest.mark.parametrize("wanted", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_the_catch_rate_lies_on_the_curve(wanted: float) -> None:
    """Planted pairs of exact Jaccard similarity, as texts: shared first words, own last ones."""
    rng, pairs, shingles, caught = np.random.default_rng(7), 1000, 300, 0
    common = round(2 * shingles * wanted / (1 + wanted))
    unshared = shingles - common
    exact = common / (common + 2 * unshared)
    for _ in range(pairs):
        words = [str(w) for w in rng.integers(0, 1 << 62, common + 4 + 2 * unshared)]
        shared = words[: common + 4]
        first, second = shared + words[common + 4 : common + 4 + unshared], shared + words[common + 4 + unshared :]
        sketch = sign_batch([" ".join(first), " ".join(second)], 5, 128, BANDS, ROWS)
        caught += bool((sketch.bands[0] == sketch.bands[1]).any())
    p = 1 - (1 - exact**9) ** 14
    assert catch_probability(exact, BANDS, ROWS) == pytest.approx(p)
    assert abs(caught / pairs - p) <= 3 * (p * (1 - p) / pairs) ** 0.5 + 1 / pairs


def test_the_estimate_is_near_the_similarity() -> None:
    a, b = (" ".join(f"{prefix}{i}" for i in range(400)) for prefix in "xy")
    shared = " ".join(f"z{i}" for i in range(1200))
    first, second = (set(shingle_hashes(f"{shared} {ending}", 5).tolist()) for ending in (a, b))
    signatures = sign([f"{shared} {a}", f"{shared} {b}"])
    assert abs(float(similarity(signatures[0], signatures[1])) - len(first & second) / len(first | second)) < 0.13


def test_stars_and_clusters_equal_brute_force() -> None:
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
        cluster = clusters(edges)
        sizes = {low: list(label.values()).count(low) for low in label.values()}
        expected = {i: low for i, low in label.items() if sizes[low] > 1}
        assert dict(zip(cluster.ids.tolist(), cluster.label.tolist(), strict=True)) == expected


def test_nothing_shared_means_no_cluster() -> None:
    empty = np.zeros(0, np.uint64)
    assert len(clusters(Edges(empty, empty, np.zeros(0, bool))).ids) == 0


def test_verified_keepers_equal_a_loop_over_each_cluster() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        n = int(rng.integers(1, 40))
        label = rng.integers(0, 5, n).astype(np.uint64)
        ids = rng.permutation(1000)[:n].astype(np.uint64)
        signatures = rng.integers(0, 2, (n, 16)).astype(np.uint32)
        threshold = 0.6
        expected: dict[int, tuple[int, float]] = {}
        for part in set(label.tolist()):
            leaders: list[int] = []
            for i in sorted(np.flatnonzero(label == part).tolist(), key=lambda i: int(ids[i])):
                alike = [(j, float((signatures[i] == signatures[j]).mean())) for j in leaders]
                match = next(((j, s) for j, s in alike if s >= threshold), None)
                if match is None:
                    leaders.append(i)
                expected[int(ids[i])] = (int(ids[match[0]]), match[1]) if match else (int(ids[i]), 1.0)
        keeper, likeness = keepers(label, ids, signatures, threshold)
        keeper_of = zip(ids.tolist(), zip(keeper.tolist(), likeness.tolist(), strict=True), strict=True)
        assert dict(keeper_of) == {i: (k, pytest.approx(s)) for i, (k, s) in expected.items()}


def chain(length: int, seed: int = 0) -> np.ndarray:
    """Signatures of which neighbours differ in 13 of 128 places, and ends share nothing."""
    rng = np.random.default_rng(seed)
    signatures = np.empty((length, 128), np.uint32)
    signatures[0] = rng.integers(0, 2**32, 128)
    for i in range(1, length):
        signatures[i] = signatures[i - 1]
        signatures[i, rng.choice(128, 13, replace=False)] = rng.integers(0, 2**32, 13)
    return signatures


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95, 1.0])
def test_keepers_of_long_clusters_equal_the_quadratic_loop(threshold: float) -> None:
    signatures = np.concatenate([chain(300), chain(200, 1), chain(20)[::-1]])
    label = np.repeat(np.array([7, 3, 7], np.uint64), [300, 200, 20])
    ids = np.random.default_rng(2).permutation(520).astype(np.uint64)
    keeper, likeness = keepers(label, ids, signatures, threshold)
    kept: list[int] = []
    for i in np.argsort(ids).tolist():
        alike = [(float((signatures[i] == signatures[j]).mean()), j) for j in kept if label[i] == label[j]]
        match = next(((s, j) for s, j in alike if s >= threshold), None)
        kept += [] if match else [i]
        assert (float(likeness[i]), int(keeper[i])) == (
            (pytest.approx(match[0]), ids[match[1]]) if match else (1, ids[i])
        )


def test_a_chain_is_settled_in_time_that_grows_with_it() -> None:
    """Four times the members: the quadratic answer takes sixteen times as long (32,000: 68 s)."""
    keepers(np.zeros(40, np.uint64), np.arange(40, dtype=np.uint64), chain(40), 0.7)  # compiled
    seconds = []
    for members in (8_000, 32_000):
        signatures, ids = chain(members), np.arange(members, dtype=np.uint64)
        began = time.process_time()
        keeper, _ = keepers(np.zeros(members, np.uint64), ids, signatures, 0.7)
        seconds.append(time.process_time() - began)
        assert len(set(keeper.tolist())) > members / 10  # ends share nothing: more than one stays
    assert seconds[1] < 8 * max(seconds[0], 0.05)


def signed(folder: Path, files: list[Source], texts: list[str], ids: list[int]) -> list[Signed]:
    """Sign the documents as the first pass does."""
    for source in files:
        mine = [Document(i, "", "", text=t) for i, t in zip(ids, texts, strict=True) if i >> ROW_BITS == source.key]
        task = FileTask(source, folder, TextConfig())
        assert sum(map(len, steps.sign(batches(mine, BATCH), task))) == len(mine)
    return [Signed(str(paths.signatures_path(folder, s.index)), s.key) for s in files]


def test_ray_gives_the_oracles_clusters_whatever_the_layout(local_ray: None, tmp_path: Path) -> None:
    """10,000 documents: clusters bit for bit those of datasketch and scipy, the newest copy kept."""
    texts = synthetic_texts(10_000, random.Random(11))
    rng = random.Random(12)
    drops_by_layout, orders = [], []
    for layout_number, (count, partitions) in enumerate(((6, 1), (6, 3), (17, 4))):
        # Three dumps, the newest has the smallest ids; files in another order than ids.
        files = [Source(i, i % 3, i // 3, f"dump{i % 3}", f"{i}.warc") for i in range(count)]
        ids = [files[rng.randrange(count)].document_id(row) for row in range(len(texts))]
        drops = find_duplicates(signed(tmp_path / str(layout_number), files, texts, ids), tmp_path, partitions, None)
        place = {document: position for position, document in enumerate(ids)}
        drops_by_layout.append(
            {place[d]: place[k] for d, k in zip(drops.ids.tolist(), drops.duplicate_of.tolist(), strict=True)}
        )
        orders.append(np.argsort(np.array(ids, np.uint64)))
        assert all(
            k >> (FILE_BITS + ROW_BITS) <= d >> (FILE_BITS + ROW_BITS)
            for d, k in zip(drops.ids.tolist(), drops.duplicate_of.tolist(), strict=True)
        )
        seen: set[tuple[str, ...]] = set()
        exact = {ids[i] for i in orders[-1] if (w := tuple(tokens(texts[i]))) in seen or seen.add(w)}
        assert set(drops.ids[drops.exact].tolist()) == exact
        signatures = sign(texts)
        expected = [similarity(signatures[d], signatures[k]) for d, k in drops_by_layout[-1].items()]
        assert drops.similarity.tolist() == pytest.approx([float(e) for e in expected])
    label = oracle_clusters([shingle_hashes(text, 5).tolist() for text in texts])
    for drops_of, order in zip(drops_by_layout, orders, strict=True):
        smallest: dict[int, int] = {}
        for position in order.tolist():  # the oracle labels by position; the copy to keep has the smallest id
            smallest.setdefault(int(label[position]), position)
        assert drops_of == {i: smallest[int(label[i])] for i in range(len(texts)) if smallest[int(label[i])] != i}
    assert len(drops_by_layout[0]) > 1500


def test_verification_spares_what_only_a_chain_connects(local_ray: None, tmp_path: Path) -> None:
    texts = synthetic_texts(2000, random.Random(21))
    files = [Source(i, 0, i, "d", f"{i}.warc") for i in range(4)]
    ids = [files[row % 4].document_id(row) for row in range(len(texts))]
    paths = signed(tmp_path, files, texts, ids)
    loose, strict = (find_duplicates(paths, tmp_path, 3, t) for t in (None, 0.7))
    assert (strict.similarity >= 0.7).all() and (loose.similarity < 0.7).any()
    assert len(strict.ids) < len(loose.ids)
    assert set(strict.ids.tolist()) <= set(loose.ids.tolist())
    kept = set(ids) - set(strict.ids.tolist())
    assert set(strict.duplicate_of.tolist()) <= kept
