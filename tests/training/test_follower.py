"""The driver reports each attempt once, whoever follows."""

import time
from pathlib import Path

from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.training.faults.attempts import Attempts
from ilm_ray.training.faults.follower import Follower


def test_a_cluster_that_grows_is_told_of_once(tmp_path: Path) -> None:
    attempts, journal = Attempts(tmp_path / "attempts"), Journal(tmp_path / "journal.jsonl")

    def follow() -> Follower:
        return Follower(tmp_path, attempts, journal, lambda: None, list, every_s=0.02)

    def resized() -> list[int]:
        return [event["workers"] for event in read_journal(tmp_path / "journal.jsonl") if event["kind"] == "resize"]

    attempts.begin(0, 8)
    with follow():
        for step, workers in ((5, 5), (9, 5), (12, 8)):  # the second: as many as before, so no change of size
            attempts.begin(step, workers)
            time.sleep(0.2)  # it looks several times
        (attempts.all()[-1] / "stopped").touch()
    assert resized() == [5, 8]
    with follow():  # the same command again
        attempts.begin(12, 4)
        time.sleep(0.2)
        (attempts.all()[-1] / "done").touch()
    assert resized() == [5, 8]  # after a stop nothing was resized: that run is over
