"""docs/python.md: its blocks run in their order, as one script, and give what the page says."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.docs.test_docs_true import REPOSITORY, blocks

TEXT = """The miller opens the gate every morning and lets the water run over the wooden wheel.
By noon the sacks stand in a long row, and farmers from three villages wait in the yard.
Nobody remembers who built the dam, although an old letter in the church names a monk.
When the river freezes, the whole family carries buckets from the well behind the barn."""


@pytest.mark.usefixtures("local_ray")
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    attach, *others = blocks(REPOSITORY / "docs" / "python.md", "python")
    assert "ray.init()" in attach  # the tests have a Ray already
    names: dict[str, Any] = {"folder": tmp_path, "good_text": TEXT}
    exec("import ray", names)
    for block in others:
        exec(compile(block, "docs/python.md", "exec"), names)
    kept, fallen = names["broken"]
    assert pd.isna(kept) and isinstance(fallen, str)
    assert names["figures"]["reward"].tolist() == pytest.approx([row["reward"] for row in names["rows"]])
