"""Groups: what fails is named, what does not answer is named, and no tensor reaches the driver."""

import sys
import time
from typing import Any

import pytest
import torch
from ray import cloudpickle

from actors.group import GroupError, Role, figures, start_groups, step, stop_groups
from ilm_ray.errors import UserError

# Workers cannot import a test module by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Sleeper:
    def __init__(self, rank: int, world: int, settings: Any) -> None:
        self.rank = rank

    @step
    def build(self) -> tuple[None, dict[str, Any]]:
        return None, {}

    @step
    def sleep(self, seconds: float) -> tuple[None, dict[str, Any]]:
        time.sleep(seconds if self.rank else 0.0)
        return None, {"rank": self.rank}

    @step
    def fail(self) -> tuple[None, dict[str, Any]]:
        if self.rank:
            print("the last words of rank one", flush=True)
            raise ValueError("no such luck")
        return None, {}

    @step
    def leak(self) -> tuple[None, dict[str, Any]]:
        return None, {"nested": [torch.zeros(2)]}


@pytest.mark.usefixtures("local_ray")
def test_waits_name_who_is_silent_who_failed_and_who_leaks() -> None:
    groups = start_groups([Role("sleeper", Sleeper, None, ranks=2, cpus=0.1)], f"test-{time.time_ns()}", 60)
    try:
        sleeper = groups["sleeper"]
        assert [f["rank"] for f in figures([sleeper.start("sleep", 0.0)], 20)[0]] == [0, 1]
        with pytest.raises(GroupError, match=r"sleeper-1 in fail\(\): ALIVE(.|\n)*no such luck") as failed:
            figures([sleeper.start("fail")], 20)
        assert "the last words of rank one" in str(failed.value)
        with pytest.raises(TypeError, match=r"sleeper-[01].leak hands a Tensor to the driver"):
            figures([sleeper.start("leak")], 20)
        with pytest.raises(GroupError, match=r"no answer within 1 s") as silent:
            figures([sleeper.start("sleep", 5.0)], 1.0)
        assert "sleeper-1 in sleep(): ALIVE" in str(silent.value) and "sleeper-0" not in str(silent.value)
    finally:
        stop_groups(groups)


@pytest.mark.usefixtures("local_ray")
def test_what_cannot_be_placed_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"no room for the 3 rank\(s\) of 'giant' \(900 CPU.*CPU and"):
        start_groups([Role("giant", Sleeper, None, ranks=3, cpus=900)], "test-giant", 5, 0.5)
