"""Relative paths in settings: from where a person stands, else from the tree; manifests name the tree's files alike."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base import places
from ilm_ray.base.places import TREE, located, place_in_tree, settled

SHIPPED = "demo/data/chat.jsonl"


def test_the_tree_holds_the_package_and_what_lies_beside_it() -> None:
    assert (TREE / "ilm_ray" / "base" / "places.py").samefile(places.__file__)
    assert (TREE / SHIPPED).is_file()


def test_a_file_of_the_tree_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (TREE, tmp_path, TREE / "docs"):
        monkeypatch.chdir(folder)
        for path in (SHIPPED, "demo/data/web/*/*.warc.gz"):
            assert settled(path) == path and located(path) == str(TREE / path)


def test_a_persons_own_file_is_meant_from_where_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / SHIPPED  # even under the name of one in the tree
    file.parent.mkdir(parents=True)
    file.touch()
    kept = {path: settled(path) for path in (SHIPPED, "demo/data/*.jsonl", "not/yet/there.jsonl", "*.txt")}
    assert kept == {path: str(tmp_path / path) for path in kept}
    monkeypatch.chdir("/")
    assert all(located(path) == path for path in kept.values())  # in another job, or in a worker


@pytest.mark.parametrize("path", ["s3://bucket/a/*.gz", "python://stdlib", "/absolute/*.txt", "file:///x/y"])
def test_urls_and_absolute_paths_stay(path: str) -> None:
    assert settled(path) == located(path) == path


@given(st.text(min_size=1, max_size=30))
def test_any_text_is_a_path_and_settling_twice_is_settling_once(text: str) -> None:
    once = settled(text)
    assert settled(once) == once
    assert located(once) == located(text)


def test_only_files_of_the_tree_have_a_place_in_it() -> None:
    assert place_in_tree(str(TREE / SHIPPED)) == place_in_tree(f"file://{TREE / SHIPPED}") == SHIPPED
    for path in ("/data/x.jsonl", "file:///data/x.jsonl", "s3://bucket/x", f"{TREE}-other/x"):
        assert place_in_tree(path) == path
