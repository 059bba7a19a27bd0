"""A checkpoint's record, and what it finds wrong."""

from pathlib import Path

import pytest

from ilm_ray.training.checkpoints import commit
from tests.training.checkpoints.small import flip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / commit.name_of(20)
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() * 1000)
    files = {name: commit.describe(folder / name) for name in ("a", "b")}
    commit.write(folder, 20, {"tokens": 3}, "work", 77, files)
    return folder


def test_a_record_comes_back(path: Path) -> None:
    record = commit.read(path)
    assert (record.step, record.state, record.fingerprint, record.journal) == (20, {"tokens": 3}, "work", 77)
    assert record.bytes == 2000 and commit.verify(path) == []
    assert commit.committed(path.parent) == [path] and commit.newest_step(path.parent) == 20


def test_every_damage_is_found_and_named(path: Path) -> None:
    flip(path / "a")
    (path / "b").write_bytes(b"b" * 999)
    assert commit.verify(path) == [
        "a has another SHA-256 than when it was written",
        "b has 999 bytes instead of 1000",
    ]
    (path / "b").unlink()
    assert commit.verify(path)[1] == "b is missing"


def test_no_character_of_a_record_can_change(path: Path) -> None:
    marker = path / commit.COMMIT
    text = marker.read_text()
    for at in range(0, len(text), 7):
        changed = chr(ord(text[at]) ^ 1)
        marker.write_text(text[:at] + changed + text[at + 1 :])
        assert any(f"{commit.COMMIT} cannot be read" in phrase for phrase in commit.verify(path)), at
    marker.write_text(text[:40])
    assert commit.verify(path)
