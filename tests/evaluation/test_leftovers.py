"""Half-written answers are dropped, whole ones kept, wherever the cut falls."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.evaluation.leftovers import drop_torn

ROWS = {str(i): {"prediction": "答 A", "gold": ["x", i]} for i in range(3)}


@given(st.integers(1))
def test_a_document_cut_anywhere_is_dropped(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    whole = json.dumps(ROWS, ensure_ascii=False).encode()
    path = tmp_path_factory.mktemp("left") / "set.json"
    path.write_bytes(whole[: cut % len(whole)])
    assert drop_torn(path) and not path.exists()


def test_a_whole_document_stays(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(ROWS, indent=1))
    assert not drop_torn(path) and path.exists()
    assert not drop_torn(tmp_path / "none.json")
