"""Token shards: what is written is what is read, whatever the shards look like."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.data.tokens.shards import ShardWriter, TokenSource, write_shard

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
        assert source.provenance(i) == {key: document[key] for key in ("id", "url", "dump")}
    assert [n for p in sorted(folder.glob("*.bytes.npy")) for n in np.load(p)] == [d["bytes"] for d in documents]
    assert source.ids.tolist() == [d["id"] for d in documents]
    assert source.weights.tolist() == [1.0] * len(documents)


def test_a_shard_whose_last_file_is_missing_does_not_exist(tmp_path: Path) -> None:
    _write(tmp_path, [[[1, 2]], [[3]]])
    (tmp_path / "shard-00001.documents.jsonl.zst").unlink()
    source = TokenSource(tmp_path)
    assert len(source) == 1
    assert source.tokens(0).tolist() == [1, 2]


def test_where_a_document_is_from_is_read_from_its_frame_alone(tmp_path: Path) -> None:
    rows = [{"id": i, "url": "u" * (i % 97), "files": [{"path": f"{i}.py", "start": 0, "end": i}]} for i in range(1000)]
    write_shard(
        tmp_path, 0, [{"tokens": [i], "bytes": 1, "weight": 1 + i % 4 / 2, **row} for i, row in enumerate(rows)]
    )
    source, path = TokenSource(tmp_path), tmp_path / "shard-00000.documents.jsonl.zst"
    assert list(read_jsonl(path)) == rows == [source.provenance(i) for i in range(1000)]
    assert source.weights.tolist() == [1 + i % 4 / 2 for i in range(1000)]
    frames = np.load(tmp_path / "shard-00000.frames.npy")
    damaged = bytearray(path.read_bytes())
    damaged[frames[2] + 20 : frames[2] + 60] = bytes(40)
    path.write_bytes(damaged)
    assert [source.provenance(i) for i in (0, 255, 384, 999)] == [rows[i] for i in (0, 255, 384, 999)]
    with pytest.raises(ValueError, match="is damaged in frame 2"):
        source.provenance(300)


def test_an_error_leaves_no_shard_and_no_rest(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 0) as shard:
        shard.add([1, 2], 2, {"id": 1})
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_marks_belong_to_the_shards_or_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, [[[1, 2]], [[3], [4]]])
    source = TokenSource(tmp_path)
    for name, marks in (("shard-00000", [True]), ("shard-00001", [False, True])):
        np.save(tmp_path / f"{name}.long.npy", np.array(marks))
    assert source.marks(tmp_path, "long").tolist() == [True, False, True]
    np.save(tmp_path / "shard-00001.long.npy", np.array([1, 0]))
    with pytest.raises(ValueError, match="shard-00001"):
        source.marks(tmp_path, "long")


def test_tokens_are_mapped_and_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    shards: Shards = [[list(range(1000)), [7]]]
    _write(tmp_path / "a", shards)
    _write(tmp_path / "b", shards)
    assert isinstance(TokenSource(tmp_path / "a")._tokens[0], np.memmap)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
