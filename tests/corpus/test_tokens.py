"""Token shards: what is written is what is read, whatever the shards look like."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.corpus.tokens import TokenSource, write_shard

Shards = list[list[list[int]]]


def _write(folder: Path, shards: Shards) -> list[dict[str, Any]]:
    documents = []
    for number, shard in enumerate(shards):
        rows = [
            {
                "tokens": tokens,
                "bytes": 3 * len(tokens) + i,
                "id": 2**62 + len(documents) + i,
                "url": f"{i}",
                "dump": "d",
            }
            for i, tokens in enumerate(shard)
        ]
        write_shard(folder, number, rows)
        documents += rows
    return documents


@given(st.lists(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=9), max_size=4), max_size=4))
def test_every_document_comes_back_in_order(tmp_path_factory: pytest.TempPathFactory, shards: Shards) -> None:
    folder = tmp_path_factory.mktemp("source")
    documents = _write(folder, shards)
    source = TokenSource(folder)
    assert len(source) == len(documents)
    assert source.lengths.tolist() == [len(d["tokens"]) for d in documents]
    assert source.total_tokens == sum(len(d["tokens"]) for d in documents)
    assert source.total_bytes == sum(d["bytes"] for d in documents)
    for i, document in enumerate(documents):
        assert source.tokens(i).tolist() == document["tokens"]
        assert source.tokens(i).dtype == np.uint32
        assert source.byte_count(i) == document["bytes"]
        assert source.provenance(i) == {key: document[key] for key in ("id", "url", "dump")}


def test_a_shard_whose_last_file_is_missing_does_not_exist(tmp_path: Path) -> None:
    _write(tmp_path, [[[1, 2]], [[3]]])
    (tmp_path / "shard-00001.documents.jsonl.zst").unlink()
    source = TokenSource(tmp_path)
    assert len(source) == 1
    assert source.tokens(0).tolist() == [1, 2]


def test_tokens_are_mapped_and_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    shards: Shards = [[list(range(1000)), [7]]]
    _write(tmp_path / "a", shards)
    _write(tmp_path / "b", shards)
    assert isinstance(TokenSource(tmp_path / "a")._tokens[0], np.memmap)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
