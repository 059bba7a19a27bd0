"""What the table of faults makes of what it saw."""

from collections import Counter

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.table import CAME_BACK, SOUND, STAGES, WENT_ON, Attempt, drawn, outcome_of, said_by, table

DONE, SAID, MUTE, HUNG, STOPPED = (
    *(Attempt(0, ""), Attempt(1, "node lost"), Attempt(1, ""), Attempt(None, ""), Attempt(143, "")),
)


@pytest.mark.parametrize(
    ("attempts", "same", "silent_end", "outcome"),
    [
        ([DONE], True, False, WENT_ON),
        ([SAID, DONE], True, False, CAME_BACK),
        ([STOPPED, DONE], True, False, CAME_BACK),
        ([MUTE, DONE], True, True, CAME_BACK),
        ([MUTE, DONE], True, False, "STOPPED WITHOUT A WORD"),
        ([SAID, MUTE, DONE], True, False, "STOPPED WITHOUT A WORD"),
        ([DONE], False, False, "OTHER RESULTS"),
        ([SAID, DONE], False, False, "OTHER RESULTS"),
        ([SAID, SAID, SAID], False, False, "DID NOT GO ON"),
        ([HUNG], False, False, "HUNG"),
        ([SAID, HUNG], False, False, "HUNG"),
    ],
)
def test_only_the_same_results_and_a_word_are_sound(
    attempts: list[Attempt], same: bool, silent_end: bool, outcome: str
) -> None:
    assert outcome_of(attempts, same, silent_end) == outcome


def test_a_job_says_why_it_ended_or_ray_does() -> None:
    lost = "[E 1 2] rpc_client.h:204: Failed to connect to GCS within 60 seconds. The program will terminate."
    assert said_by('training\n{"status": "failed", "evidence": "error.txt"}\n', lost) == "error.txt"
    assert said_by("", f"note\n{lost}\n").startswith("Failed to connect")
    assert said_by('{"status": "stopped"}\n', "note") == said_by("", "") == ""


def test_every_fault_meets_every_stage_as_often() -> None:
    stages, faults = list(STAGES), list(FAULTS)
    alone = {"store fails": "pretrain", "checkpoint damaged": "ppo"}
    possible = {(s, f) for s in stages for f in faults if alone.get(f, s) == s}
    counts = Counter(drawn(stages, faults, 2 * len(possible) + 7, seed=3))
    assert set(counts) == possible and set(counts.values()) == {2, 3}
    assert drawn(stages, faults, 20, seed=3) == drawn(stages, faults, 40, seed=3)[:20]  # more runs go on
    assert drawn(stages, faults, 20, seed=3) != drawn(stages, faults, 20, seed=4)


def test_the_table_shows_what_is_not_sound() -> None:
    row = {"stage": "text", "fault": "disk full", "seconds": 30.0, "usual_s": 20.0}
    shown = table([row | {"outcome": SOUND[0]}, row | {"outcome": "HUNG", "seconds": 900.0}])
    assert shown.splitlines()[2:] == [f"| disk full | 1 {SOUND[0]}, 1 HUNG, +445 s |"]
