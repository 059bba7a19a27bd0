"""One run of the text stage over the demo corpus, for all tests that look at its outcome."""

from collections import Counter
from pathlib import Path

import pytest

from ilm_ray.data.web import pipeline
from tests.data.running import run


class Counts:
    """Stands in for the live counter."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.seen[tags["stage"], tags["outcome"]] += int(value)


@pytest.fixture(scope="session")
def demo_counts() -> Counts:
    """What the demo run counted while it ran."""
    return Counts()


@pytest.fixture(scope="session")
def demo(local_ray: None, demo_counts: Counts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<run>/text`; tests that change it put it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "counter", lambda *_: demo_counts)
        return run(tmp_path_factory.mktemp("demo"))
