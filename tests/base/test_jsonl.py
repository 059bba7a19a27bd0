"""JSON Lines: what is written comes back, and a damaged file says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.base.jsonl import JsonlWriter, read_jsonl, write_jsonl

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=20))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("jsonl")
    for name in ("a.jsonl", "a.jsonl.zst"):
        assert write_jsonl(folder / name, rows) == len(rows)
        assert list(read_jsonl(folder / name)) == rows


def test_lines_longer_than_a_chunk_and_several_frames(tmp_path: Path) -> None:
    rows = [{"text": "字" * length} for length in (10, 1_000_000, 3)]
    frames = [zstandard.compress(json.dumps(row).encode() + b"\n") for row in rows]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert list(read_jsonl(tmp_path / "a.jsonl.zst")) == rows


def test_a_lone_surrogate_costs_its_character_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a\ud800b"}, {"text": "c"}])
    assert [row["text"] for row in read_jsonl(tmp_path / "a.jsonl")] == ["a?b", "c"]
    (tmp_path / "b.jsonl").write_text('{"text": "a\\ud800b"}\n')  # as other writers escape it
    assert [row["text"] for row in read_jsonl(tmp_path / "b.jsonl")] == ["a\ud800b"]


def test_a_cut_or_damaged_file_is_no_shorter_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    write_jsonl(path, ({"number": i, "text": f"{i * 7919 % 1013}" * 9} for i in range(5000)))
    whole = path.read_bytes()
    for cut in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is cut"):
            list(read_jsonl(path))
    path.write_bytes(whole[:100] + bytes(50) + whole[150:])
    with pytest.raises(ValueError):  # of the frame, its checksum, or of a line that is no JSON any more
        list(read_jsonl(path))


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pytest.raises(RuntimeError), JsonlWriter(path) as out:
        out.write({"number": 1})
        raise RuntimeError
    assert not list(tmp_path.iterdir())
