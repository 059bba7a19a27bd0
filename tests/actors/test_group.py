"""Groups: what fails is named, what does not answer is named, and no tensor reaches the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray import cloudpickle

from actors.evidence import state_of
from actors.group import GroupError, LostRank, Role, collect, lost_ranks, start_groups, stop_groups, timed
from ilm_ray.base.errors import UserError

# Workers cannot import a test module by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Sleeper:
    def __init__(self, rank: int, world: int, settings: Any) -> None:
        self.rank = rank

    @timed
    def build(self) -> tuple[None, dict[str, Any]]:
        return None, {}

    @timed
    def sleep(self, seconds: float) -> tuple[None, dict[str, Any]]:
        time.sleep(seconds if self.rank else 0.0)
        return None, {"rank": self.rank}

    @timed
    def wait_for(self, *others: None) -> tuple[None, dict[str, Any]]:
        return None, {}

    @timed
    def fail(self) -> tuple[None, dict[str, Any]]:
        if self.rank:
            print("the last words of rank one", flush=True)
            raise ValueError("no such luck")
        return None, {}

    @timed
    def leak(self) -> tuple[None, dict[str, Any]]:
        return None, {"nested": [torch.zeros(2)]}


@pytest.mark.usefixtures("local_ray")
def test_waits_name_who_is_silent_who_failed_and_who_leaks() -> None:
    roles = [Role("sleeper", Sleeper, None, ranks=2, cpus=0.1), Role("waiter", Sleeper, None, cpus=0.1)]
    groups = start_groups(roles, f"test-{time.time_ns()}", 240)
    try:
        sleeper = groups["sleeper"]
        assert [f["rank"] for f in collect([sleeper.start("sleep", 0.0)], 20)[0]] == [0, 1]
        with pytest.raises(GroupError, match=r"sleeper-1 in fail\(\): ALIVE(.|\n)*no such luck") as failed:
            collect([sleeper.start("fail")], 20)
        assert failed.value.lost == ()  # it would fail again
        assert "the last words of rank one" in str(failed.value)
        with pytest.raises(TypeError, match=r"sleeper-[01].leak hands a Tensor to the driver"):
            collect([sleeper.start("leak")], 20)
        with pytest.raises(GroupError, match=r"no answer within 1 s") as silent:
            collect([sleeper.start("sleep", 5.0)], 1.0)
        assert "sleeper-1 in sleep(): ALIVE" in str(silent.value) and "sleeper-0" not in str(silent.value)
        # One that waits for the other's result is not to blame, and is no loss.
        slow = sleeper.start("sleep", 6.0)
        after = groups["waiter"].start("wait_for", *slow.payloads)
        with pytest.raises(GroupError, match=r"no answer within 0.5 s from sleeper-1$") as silent:
            collect([slow, after], 0.5)
        assert silent.value.lost == (LostRank("sleeper", 1, "sleep", "silent"),)
        os.kill(state_of(sleeper.actors[1])["Pid"], signal.SIGKILL)
        with pytest.raises(GroupError, match=r"sleeper-1 died: ") as died:
            collect([slow, after], 20)
        assert died.value.lost == (LostRank("sleeper", 1, "sleep", "died"),)
        assert lost_ranks(groups.values()) == [LostRank("sleeper", 1, "", "died")]
    finally:
        stop_groups(groups)


@pytest.mark.usefixtures("local_ray")
def test_a_stopped_process_makes_room_for_its_successor() -> None:
    role = Role("sleeper", Sleeper, None, ranks=2, cpus=3.0)  # all CPUs: the second start needs those of the first
    first = start_groups([role], f"test-{time.time_ns()}", 240)["sleeper"]
    pid = state_of(first.actors[1])["Pid"]
    os.kill(pid, signal.SIGSTOP)
    first.stop()
    second = start_groups([role], f"test-{time.time_ns()}", 240, 60)["sleeper"]
    try:
        assert [f["rank"] for f in collect([second.start("sleep", 0.0)], 20)[0]] == [0, 1]
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    finally:
        second.stop()


SHARED = """
import sys
import time

import ray
from ray import cloudpickle

from actors.group import Role, collect, place_together, start_groups, stop_groups, timed

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Seer:
    def __init__(self, rank, world, settings): ...

    @timed
    def build(self):
        return None, {"gpus": [int(i) for i in ray.get_gpu_ids()]}


ray.init(address="local", num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False)
roles = [Role("one", Seer, None, ranks=3, cpus=0.1, gpus=0.2), Role("two", Seer, None, ranks=2, cpus=0.1, gpus=0.2)]
shared = place_together(roles)
groups = start_groups(roles, "shared", 120, 15, shared)
groups.pop("two").stop()  # leaves the placement to the other
groups |= start_groups(roles[1:], "again", 120, 15, shared)
print([rank["gpus"] for work in collect([g.start("build") for g in groups.values()], 60) for rank in work])
stop_groups(groups)
"""


def _with_counted_gpus() -> dict[str, str]:
    """The environment of a process whose Ray is told a number of GPUs: it refuses more than CUDA may see."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    return env


@pytest.mark.slow
def test_ranks_of_one_number_share_a_gpu_and_those_of_one_group_do_not() -> None:
    """Ray deals out three GPUs that nobody has to have."""
    command = [sys.executable, "-c", SHARED]
    done = subprocess.run(command, env=_with_counted_gpus(), capture_output=True, text=True, timeout=200, check=True)
    a, b, c, again_a, again_b = json.loads(done.stdout.strip().splitlines()[-1])
    assert sorted([a, b, c]) == [[0], [1], [2]]
    assert [again_a, again_b] == [a, b]


FITTED = """
import json
import sys

import ray
from ray import cloudpickle

from actors.group import Role, collect, start_groups, stop_groups, timed
from actors.ppo.roles import gpu_share
from ilm_ray.config import load_config
from ilm_ray.config.fit import GROUPS, fitted, group_sizes

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Seer:
    def __init__(self, rank, world, settings): ...

    @timed
    def build(self):
        return None, {"gpus": [int(i) for i in ray.get_gpu_ids()]}


seen = {}
for gpus in map(int, sys.argv[1:]):
    ray.init(address="local", num_cpus=4, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    ppo = fitted(load_config("nano"), ray.cluster_resources()["GPU"]).ppo
    share = gpu_share(sum(group_sizes(ppo)))
    roles = [Role(n, Seer, None, ranks=r, gpus=share) for n, r in zip(GROUPS, group_sizes(ppo), strict=True)]
    groups = start_groups(roles, "fitted", 120, 15)
    answers = collect([group.start("build") for group in groups.values()], 60)
    seen[gpus] = [[rank["gpus"][0] for rank in group] for group in answers]
    stop_groups(groups)
    ray.shutdown()
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_nanos_groups_find_places_on_any_number_of_gpus() -> None:
    """Ray deals out GPUs that nobody has to have: all groups are placed, ranks of one group on different GPUs."""
    command = [sys.executable, "-c", FITTED, "1", "2", "5", "6"]
    done = subprocess.run(command, env=_with_counted_gpus(), capture_output=True, text=True, timeout=280, check=True)
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    for gpus, groups in seen.items():
        assert len(groups) == 5 and all(len(set(ranks)) == len(ranks) for ranks in groups)
        used = [gpu for ranks in groups for gpu in ranks]
        assert len(used) == (6 if gpus == "6" else 5) and len(set(used)) == min(int(gpus), len(used))


@pytest.mark.usefixtures("local_ray")
def test_what_cannot_be_placed_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"no room for the 3 rank\(s\) of 'giant' \(900 CPU.*CPU and"):
        start_groups([Role("giant", Sleeper, None, ranks=3, cpus=900)], "test-giant", 5, 0.5)
