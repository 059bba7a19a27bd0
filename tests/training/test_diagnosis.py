"""Diagnoses from traces that real processes left: killed, hung, out of disk, a bug, bad input."""

import json
import os
import signal
import socket
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ilm_ray.base.errors import UserError
from ilm_ray.training.faults.attempts import WITHOUT_PROGRESS, Attempts, failed, lost
from ilm_ray.training.faults.diagnosis import diagnose, read_traces, write_diagnosis
from ilm_ray.training.faults.watch import HUNG, Watch
from ilm_ray.training.loop import Diverged
from tests.processes import run_ranks

CULPRIT = 1


def _work(folder: str, fault: str) -> None:
    """Three steps of an all-reduce; at the third rank 1 does as `fault` says."""
    rank = dist.get_rank()
    with Watch(Path(folder), rank, deadline_s=3.0) as watch:
        try:
            for step in range(3):
                watch.at(step, "reading data")
                if step == 2 and rank == CULPRIT:
                    time.sleep(1.2)  # a sign of life says that the rank has come so far
                    _fail(fault, Path(folder))
                watch.at(step, "forward and backward")
                dist.all_reduce(torch.ones(1))
        except BaseException as error:
            watch.failed(error, traceback.format_exc())
            raise


def _fail(fault: str, folder: Path) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(60)
    if fault == "disk":
        with Path("/dev/full").open("w") as out:
            out.write("x" * 100_000)
    if fault == "shard":
        torch.load(folder / "absent", weights_only=True)
    if fault == "input":
        raise UserError("tokens: shard 3 belongs to another tokenizer; run the stage again")
    if fault == "diverged":
        raise Diverged("step 2: loss is nan, 3 batches in a row")
    if fault == "memory":
        torch.empty(1 << 50)


EXPECTED = {
    "kill": "worker_killed",
    "hang": "hang",
    "disk": "disk_full",
    "shard": "data",
    "input": "bad_input",
    "diverged": "diverged",
    "memory": "out_of_memory",
}


@pytest.mark.ranks
@pytest.mark.parametrize("fault", EXPECTED)
def test_the_first_rank_to_fail_is_found_among_those_that_fail_after_it(tmp_path: Path, fault: str) -> None:
    attempt = Attempts(tmp_path).begin(0, 3)
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(_work, 3, str(attempt), fault)
    row = write_diagnosis(attempt)
    diagnosis = diagnose(read_traces(attempt))
    assert (diagnosis.category, diagnosis.rank, diagnosis.step) == (EXPECTED[fault], CULPRIT, 2), row["line"]
    assert diagnosis.host == socket.gethostname()
    assert f"rank {CULPRIT}" in diagnosis.evidence[0] and len(diagnosis.evidence) == 3
    assert diagnosis.final == (fault in ("input", "diverged"))
    assert json.loads((tmp_path / "diagnoses.jsonl").read_text())["line"] == row["line"]
    if fault == "hang":
        stack = (attempt / f"rank-{CULPRIT}.stack.txt").read_text()
        assert "_fail" in stack, "it shows what the rank was at"
    print(row["line"])


@pytest.mark.process
def test_a_rank_without_progress_ends_itself(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with Watch(tmp_path, 0, deadline_s=0.5):
            time.sleep(30)
        os._exit(0)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(done[1]) == HUNG
    assert json.loads((tmp_path / "rank-0.json").read_text())["hung"]


@pytest.mark.long
def test_a_rank_that_makes_progress_is_left_alone(tmp_path: Path) -> None:
    with Watch(tmp_path, 0, deadline_s=0.6) as watch:
        for step in range(10):
            watch.at(step, "forward and backward")
            time.sleep(0.15)
    assert json.loads((tmp_path / "rank-0.json").read_text())["step"] >= 5


def _trace(folder: Path, rank: int, step: int, when: float, **life: Any) -> None:
    row = {"rank": rank, "step": step, "doing": "forward and backward", "seconds": 1.0, "time": when, "host": "h"}
    (folder / f"rank-{rank}.json").write_text(json.dumps(row | {"pid": 1, "hung": False} | life))


def test_what_ray_knows_of_a_dead_worker_comes_before_guesses(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    for words, category in (
        ("ActorDiedError: The actor died because its node has died. Node Id: abc", "node_lost"),
        ("OutOfMemoryError: Task was killed due to the node running low on memory", "out_of_memory"),
        ("The actor is dead because its worker process has died. Some common causes: the OOM killer", "worker_killed"),
    ):
        attempt = attempts.begin(0, 2)
        for rank in range(4):
            _trace(attempt, rank, 5, 100.0 - rank)  # all were silent: rank 3 first, but Ray names rank 2
        (attempt / "controller.json").write_text(json.dumps({"2": words}))
        diagnosis = diagnose(read_traces(attempt))
        assert (diagnosis.category, diagnosis.rank) == (category, 2) and failed(attempt)
    (attempt / "controller.json").write_text(json.dumps({"2": "ActorUnavailableError on node abc12: no connection"}))
    assert diagnose(read_traces(attempt)).category == "worker_killed"
    assert diagnose(read_traces(attempt), ["abc12"]).category == "node_lost"


def test_attempts_without_progress_and_final_ones_are_not_repeated(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    for number in range(WITHOUT_PROGRESS):
        assert attempts.hopeless(4) is None
        attempt = attempts.begin(4, 2)
        assert attempt.name == f"attempt-{number:04d}"
        _trace(attempt, 0, 6, time.time())
        (attempt / "controller.json").write_text(json.dumps({"0": "ActorDiedError"}))
    assert "after step 4" in (attempts.hopeless(4) or "")
    assert attempts.hopeless(8) is None, "a checkpoint further on is progress"
    assert Attempts(tmp_path, earlier=WITHOUT_PROGRESS).hopeless(4) is None, "the job was started again"
    following = attempts.begin(4, 2)
    assert lost(attempt, following)["lost_steps"] == 2


def test_a_cluster_that_changed_its_size_is_no_fault(tmp_path: Path) -> None:
    attempt = Attempts(tmp_path).begin(0, 8)
    _trace(attempt, 0, 3, time.time())
    assert not failed(attempt)
    # Ray Train takes the process group down while a rank is at work in it, or in that of a mesh, known by a name.
    for collective in (dist.all_reduce, lambda numbers: torch.ops._c10d_functional.all_reduce(numbers, "sum", "8")):
        with pytest.raises((ValueError, RuntimeError), match="process group") as torn:
            collective(torch.ones(1))
        Watch(attempt, 0, 1.0).failed(torn.value, "")
        assert not failed(attempt)
    Watch(attempt, 1, 1.0).failed(ValueError("a fault of its own"), "")
    _trace(attempt, 1, 3, time.time())
    assert failed(attempt) and diagnose(read_traces(attempt)).rank == 1


def test_gloo_is_told_from_a_cause(tmp_path: Path) -> None:
    """Ranks that lost each other and all still say so: nobody is blamed for what none of them did."""
    attempt = Attempts(tmp_path).begin(0, 2)
    for rank in range(2):
        _trace(attempt, rank, 3, time.time())
        watch = Watch(attempt, rank, 1.0)
        watch.at(3, "forward and backward")
        watch.failed(RuntimeError(f"Timed out waiting {timedelta(seconds=9)} for recv operation"), "")
    assert diagnose(read_traces(attempt)).category == "network"
