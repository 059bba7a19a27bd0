"""The mixture: exact shares, every token once an epoch, the same order for every layout."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ilm_ray.corpus.mixture import BLOCK, Mixture
from ilm_ray.corpus.tokens import TokenSource, write_shard
from ilm_ray.errors import UserError
from ilm_ray.model.loss import IGNORE


@pytest.fixture()
def sources(tmp_path: Path) -> dict[str, TokenSource]:
    """Documents whose tokens are all different, so that a token says where it comes from."""
    out, token = {}, 0
    generator = np.random.default_rng(0)
    for name, documents in (("en", 40), ("code", 9)):
        rows = []
        for i in range(documents):
            length = int(generator.integers(2, 90))
            tokens = np.arange(token, token + length)
            rows.append({"tokens": tokens, "bytes": length, "id": i, "url": f"{name}/{i}", "dump": "d"})
            token += length
        folder = tmp_path / name / "train"
        write_shard(folder, 0, rows)
        out[name] = TokenSource(folder)
    return out


def test_shares_hold_exactly_in_every_block(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 3, "code": 1}, context=16, seed=5)
    for block in range(3):
        drawn = Counter(mixture.pieces(block * BLOCK + i)[0].source for i in range(BLOCK))
        assert drawn == {"en": BLOCK * 3 // 4, "code": BLOCK // 4}


def test_an_epoch_holds_every_token_once_and_epochs_differ(sources: dict[str, TokenSource]) -> None:
    source = sources["en"]
    mixture = Mixture({"en": source}, {"en": 1.0}, context=16, seed=5)
    needed = -(-2 * source.total_tokens // 16)
    tokens = np.concatenate([mixture.batch(i, 1)[0].tokens.numpy() for i in range(0, needed)])
    # Blocks shuffle the order of a block's windows, so look at whole blocks only through counts.
    counts = Counter(tokens.tolist())
    assert max(counts.values()) - min(counts.values()) <= 2
    assert mixture._epoch("en", 0)[0].tolist() != mixture._epoch("en", 1)[0].tolist()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_layout_reads_the_same_batch(sources: dict[str, TokenSource], workers: int) -> None:
    mixture = Mixture(sources, {"en": 2, "code": 1}, context=24, seed=1)
    whole = mixture.batch(48, 8)[0].tokens.view(8, 24)
    for rank in range(workers):
        part = mixture.batch(48 + rank, 8 // workers, stride=workers)[0].tokens.view(-1, 24)
        assert torch.equal(part, whole[rank::workers])


def test_labels_are_the_next_token_of_the_same_document(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 2, "code": 1}, context=24, seed=1, short_share=0.5, short_context=7)
    batch, labels = mixture.batch(0, 64)
    last = {int(s.tokens(i)[-1]) for s in sources.values() for i in range(len(s))}
    for token, label in zip(batch.tokens.tolist(), labels.tolist(), strict=True):
        assert label == (IGNORE if token in last else token + 1)
    starts = batch.cu_seqlens[:-1].tolist()
    assert all(batch.positions[s] == 0 for s in starts)
    assert len(batch.tokens) == 64 * 24


def test_half_of_the_sequences_stay_short(sources: dict[str, TokenSource]) -> None:
    mixture = Mixture(sources, {"en": 1}, context=64, seed=1, short_share=0.5, short_context=8)
    short = [all(p.stop - p.start <= 8 for p in mixture.pieces(i)) for i in range(BLOCK)]
    assert sum(short) == BLOCK // 2


def test_absent_sources_give_their_share_to_the_others(sources: dict[str, TokenSource]) -> None:
    with_absent = Mixture(sources, {"en": 1, "zh": 2, "code": 1}, context=8, seed=0)
    without = Mixture(sources, {"en": 1, "code": 1}, context=8, seed=0)
    assert [with_absent.pieces(i) for i in range(BLOCK)] == [without.pieces(i) for i in range(BLOCK)]
    with pytest.raises(UserError, match="no token of zh"):
        Mixture(sources, {"zh": 1}, context=8, seed=0)
