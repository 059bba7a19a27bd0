"""Files of a finished stage against their hashes: read once, known by what the disk says, never taken on trust."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.run import manifest as manifests
from ilm_ray.run import whole
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.whole import damage, read_known, require_whole, require_whole_stage

NAMES = ("a.bin", "deep/b.bin", "deep/中 文.bin")


@pytest.fixture()
def stage(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000) + bytes([number]))
    files = manifests.describe_files(tmp_path / "s", [tmp_path / "s" / name for name in NAMES])
    manifests.commit(tmp_path / "s", Manifest("s", {}, {}, files))
    return tmp_path / "s"


def loaded(stage: Path) -> Manifest:
    manifest = manifests.load(stage)
    assert manifest is not None
    return manifest


@pytest.fixture()
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that were read."""
    names, real = list[str](), whole.sha256_of

    def watched(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(whole, "sha256_of", watched)
    yield names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("known", [False, True])
def test_every_kind_of_damage_to_every_file_is_named(stage: Path, name: str, known: bool) -> None:
    if known:
        require_whole(stage, loaded(stage))
    path, good = stage / name, (stage / name).read_bytes()
    flipped = bytes([*good[:500], good[500] ^ 4, *good[501:]])
    for bad, phrase in ((flipped, "another SHA-256"), (good[:-1], "has 1000 bytes instead of 1001"), (None, "missing")):
        path.unlink() if bad is None else path.write_bytes(bad)
        with pytest.raises(UserError, match=f"{path.name} .*{phrase}") as refused:
            require_whole_stage(stage)
        assert "run that stage again" in str(refused.value)
        path.write_bytes(good)
    require_whole_stage(stage)


def test_a_file_is_hashed_at_its_first_reading_and_again_when_the_disk_says_so(stage: Path, hashed: list[str]) -> None:
    require_whole(stage, loaded(stage))
    assert sorted(hashed) == sorted(Path(name).name for name in NAMES)
    hashed.clear()
    require_whole(stage, loaded(stage))
    assert hashed == []
    copy = (stage / NAMES[0]).read_bytes()
    os.utime(stage / NAMES[0], (1, 1))
    require_whole(stage, loaded(stage))
    assert hashed == ["a.bin"]
    hashed.clear()
    (stage / "new").write_bytes(copy)  # the same bytes and times, another inode
    os.utime(stage / "new", (1, 1))
    (stage / "new").replace(stage / NAMES[0])
    require_whole(stage, loaded(stage))
    assert hashed == ["a.bin"]
    hashed.clear()
    assert damage(stage, loaded(stage).files) == {} and len(hashed) == 3, "a verification takes nothing on trust"


def test_a_record_of_known_files_that_is_damaged_is_none(stage: Path, hashed: list[str]) -> None:
    require_whole(stage, loaded(stage))
    for text in ("", "[]", "{", '{"a.bin": 3}'):
        (stage / whole.KNOWN).write_text(text)
        hashed.clear()
        require_whole(stage, loaded(stage))
        assert len(hashed) == 3 and len(read_known(stage)) == 3
