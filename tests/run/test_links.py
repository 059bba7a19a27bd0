"""Two rounds of pairs find the bad nodes: every set of them that leaves two sound ones, and planted ones on gloo."""

import socket
import time
from itertools import combinations
from typing import Any

import pytest
import ray
import torch

from actors.probe import Probe
from ilm_ray.run.links import SLOWEST_LINK, Link, Pair, judge, next_pairs
from jobs import doctor

GOOD, BAD = Link(2 * SLOWEST_LINK), Link(SLOWEST_LINK / 2)


def rounds_of(nodes: list[str], bad: set[str]) -> tuple[int, dict[Pair, Link]]:
    """The rounds that it takes where each link of a bad node is bad, and all that was measured."""
    known, rounds = dict[Pair, Link](), 0
    while pairs := next_pairs(nodes, known):
        named = [node for pair in pairs for node in pair]
        assert len(set(named)) == len(named) and not set(pairs) & set(known)
        known |= {pair: BAD if bad & set(pair) else GOOD for pair in pairs}
        rounds += 1
    return rounds, known


@pytest.mark.parametrize("count", range(2, 9))
def test_all_bad_nodes_are_named_and_no_other(count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    for size in range(count - 1):
        for bad in map(set, combinations(nodes, size)):
            _, known = rounds_of(nodes, bad)
            wrong = {finding.name for finding in judge(nodes, known) if not finding.ok}
            assert wrong == {f"gloo links of {node}" for node in bad}


@pytest.mark.parametrize("count", [64, 65, 1001])
def test_one_bad_node_takes_two_rounds_whatever_the_size(count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    for bad in (nodes[0], nodes[count // 2], nodes[-1]):
        rounds, known = rounds_of(nodes, {bad})
        assert rounds == 2 and len(known) <= count // 2 + 3
        assert [finding.name for finding in judge(nodes, known) if not finding.ok] == [f"gloo links of {bad}"]


def test_a_bad_link_between_two_sound_nodes_is_named_alone() -> None:
    nodes = ["a", "b", "c", "d"]
    known: dict[Pair, Link] = {}
    while pairs := next_pairs(nodes, known):
        known |= {pair: Link(error="refused") if set(pair) == {"a", "b"} else GOOD for pair in pairs}
    (wrong,) = (finding for finding in judge(nodes, known) if not finding.ok)
    assert set(wrong.name.removeprefix("gloo link ").split(" - ")) == {"a", "b"} and wrong.observation == "refused"


class Slow(Probe):
    def bandwidth(self, rank: int, meeting: tuple[str, int], deadline_s: float) -> float:
        gather = torch.distributed.ProcessGroupGloo.allgather

        def late(*given: Any) -> Any:
            time.sleep(1.0)
            return gather(*given)

        torch.distributed.ProcessGroupGloo.allgather = late  # type: ignore[method-assign]
        return super().bandwidth(rank, meeting, deadline_s)


class Unreachable(Probe):
    """Its store is said to be where nobody listens, and it reaches no other."""

    def open_store(self, ranks: int) -> tuple[str, int]:
        host, _ = super().open_store(ranks)
        return host, _free_port()

    def bandwidth(self, rank: int, meeting: tuple[str, int], deadline_s: float) -> float:
        return super().bandwidth(rank, meeting if rank == 0 else (meeting[0], _free_port()), deadline_s)


class Forging(Probe):
    """Its memory flips a bit of what it sends."""

    def bandwidth(self, rank: int, meeting: tuple[str, int], deadline_s: float) -> float:
        full = torch.full

        def flipped(*given: Any) -> torch.Tensor:
            data = full(*given)
            data[12345] += 1
            return data

        torch.full = flipped
        return super().bandwidth(rank, meeting, deadline_s)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("kind", "words", "place"),
    [
        (Slow, "MB/s with", 3),
        # Four more starts of actors and of torch in each: `make test-all`.
        pytest.param(Slow, "MB/s with", 0, marks=pytest.mark.slow),
        pytest.param(Unreachable, "Error", 0, marks=pytest.mark.slow),
        pytest.param(Unreachable, "Error", 3, marks=pytest.mark.slow),
        pytest.param(Forging, "bytes came wrong", 0, marks=pytest.mark.slow),
        pytest.param(Forging, "bytes came wrong", 3, marks=pytest.mark.slow),
    ],
)
def test_a_planted_bad_rank_is_found_over_gloo(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, kind: type[Probe], words: str, place: int
) -> None:
    monkeypatch.setattr("jobs.doctor.LINK_S", 4.0)
    kinds = {f"n{i}": kind if i == place else Probe for i in range(4)}
    probes = {name: ray.remote(kind).options(num_cpus=0).remote() for name, kind in kinds.items()}
    try:
        checks = doctor._links(probes)
    finally:
        for probe in probes.values():
            ray.kill(probe)
    (wrong,) = (check for check in checks if not check.ok)
    assert wrong.name == f"gloo links of n{place}" and words in wrong.observation and "\n" not in wrong.line()
