"""Saving beside training, and what becomes of it when something breaks: a kill, a full disk, a flipped bit."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ilm_ray.base.errors import UserError
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.training.checkpoints.writer import CommittingWriter
from tests.processes import run_ranks
from tests.training.checkpoints.small import advance, contents, equal, flip, made, train, weights_after

pytestmark = pytest.mark.ranks


def names(folder: Path) -> list[str]:
    return [path.name for path in commit.committed(folder)]


def _slowly(folder: str) -> None:
    """Training moves the weights while they are being written."""
    part, checkpoints = made(), Checkpoints(Path(folder), Storage())
    write = CommittingWriter.write_data

    def slow(self: CommittingWriter, *arguments: Any) -> Any:
        time.sleep(1.0)
        return write(self, *arguments)

    CommittingWriter.write_data = slow  # type: ignore[method-assign]
    advance(part)
    checkpoints.save(1, [part], {})
    assert not commit.committed(Path(folder))  # it returned before anything was written
    advance(part)
    checkpoints.finish()
    assert commit.newest_step(Path(folder)) == 1


def _restored(folder: str, step: int, ranks_notes: str, storage: Storage) -> None:
    """The checkpoint of `step` is loaded on every rank; what was said is left in a file."""
    part, checkpoints = made(seed=9), Checkpoints(Path(folder), storage)
    loaded = checkpoints.restore([part])
    checkpoints.finish()
    assert loaded.step == step
    if step:
        assert equal(contents(part), weights_after(step))
    Path(ranks_notes, f"{dist.get_rank()}.json").write_text(json.dumps(loaded.notes))


def restored(folder: Path, step: int, notes: Path, ranks: int = 1, storage: Storage | None = None) -> list[str]:
    notes.mkdir(exist_ok=True)
    run_ranks(_restored, ranks, str(folder), step, str(notes), storage or Storage())
    notes_of_ranks = [json.loads((notes / f"{rank}.json").read_text()) for rank in range(ranks)]
    assert all(notes_of_ranks[0] == other for other in notes_of_ranks)
    return notes_of_ranks[0]


def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path: Path) -> None:
    run_ranks(_slowly, 1, str(tmp_path / "c"))
    assert restored(tmp_path / "c", 1, tmp_path / "notes") == []


def _trained(folder: str, first: int, last: int, keep: int) -> None:
    part, checkpoints = made(), Checkpoints(Path(folder), Storage(keep_local=keep))
    for _ in range(first - 1):
        advance(part)
    train(checkpoints, part, first, last)
    checkpoints.finish()


def _random(folder: str) -> None:
    """Save, draw; restore, draw: the same numbers."""
    part, checkpoints = made(), Checkpoints(Path(folder), Storage())
    torch.manual_seed(dist.get_rank())
    np.random.seed(dist.get_rank())
    random.seed(dist.get_rank())
    advance(part)
    checkpoints.save(1, [part], {}, last=True)
    first = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)]
    checkpoints.restore([part])
    checkpoints.finish()
    second = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)]
    assert first == second


def test_random_numbers_go_on_as_they_would_have_on_each_rank(tmp_path: Path) -> None:
    run_ranks(_random, 2, str(tmp_path / "c"))
    states = [json.loads((tmp_path / "c" / "step-00000001" / f"rng-{rank}.json").read_text()) for rank in range(2)]
    assert states[0]["torch"] != states[1]["torch"]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "commit"])
def test_a_damaged_checkpoint_is_passed_over_by_all_ranks_and_that_is_said(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "c"
    run_ranks(_trained, 2, str(folder), 1, 3, 3)
    newest = folder / "step-00000003"
    victim = newest / (commit.COMMIT if how == "commit" else "__1_0.distcp")
    if how == "flipped":
        flip(victim)
    elif how == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-50])
    lines = restored(folder, 2, tmp_path / "notes", ranks=2)
    assert victim.name in lines[0] and "DAMAGED" in lines[0] and "goes on from step-00000002" in lines[1]
    assert names(folder) == ["step-00000001", "step-00000002"]
    if how != "flipped":
        return
    # The next save takes the damaged one's place.
    run_ranks(_trained, 2, str(folder), 3, 3, 3)
    assert names(folder)[-1] == "step-00000003" and commit.verify(newest) == []
    assert not (newest / commit.DAMAGED).exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run_ranks(_of_other_settings, 2, str(tmp_path / "c"))


def _of_other_settings(folder: str) -> None:
    part, before = made(), Checkpoints(Path(folder), Storage(fingerprint="a"))
    train(before, part, 1, 1)
    with pytest.raises(UserError, match="other settings"):
        Checkpoints(Path(folder), Storage(fingerprint="b")).restore([part])


def _dies_while_writing(folder: str) -> None:
    part, checkpoints = made(), Checkpoints(Path(folder), Storage())
    train(checkpoints, part, 1, 1)

    def half(self: CommittingWriter, plan: Any, planner: Any) -> Any:
        if dist.get_rank() == 1:
            (self.target / "__1_0.distcp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return CommittingWriter.__base__.write_data(self, plan, planner)  # type: ignore[union-attr]

    CommittingWriter.write_data = half  # type: ignore[method-assign]
    train(checkpoints, part, 2, 2)


def test_a_rank_killed_while_it_writes_leaves_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(_dies_while_writing, 2, str(folder))
    assert names(folder) == ["step-00000001"] and (folder / "step-00000002").exists()
    assert restored(folder, 1, tmp_path / "notes", ranks=2) == []
    assert not (folder / "step-00000002").exists()


def _for_ever(folder: str) -> None:
    part, checkpoints = made(), Checkpoints(Path(folder), Storage(keep_local=1))
    train(checkpoints, part, 1, 10_000)


@pytest.mark.slow
def test_kill_at_random_moments_never_leaves_a_committed_half(tmp_path: Path) -> None:
    generator, seen = random.Random(0), set[int]()
    for number in range(12):
        folder = tmp_path / str(number)
        pid = os.fork()
        if pid == 0:
            try:
                dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
                _for_ever(str(folder))
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        while not commit.committed(folder):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL  # it had not ended by itself
        for path in commit.committed(folder):
            assert commit.verify(path) == []
        seen.add(commit.newest_step(folder))
        restored(folder, commit.newest_step(folder), tmp_path / f"notes{number}")
    assert len(seen) > 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB; a checkpoint of the small model takes half a MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root: run as root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(disk: Path, full: bool) -> None:
    """Leave room for nearly half a checkpoint, or take the ballast away."""
    dist.barrier()
    if dist.get_rank() == 0:
        (disk / "ballast").unlink(missing_ok=True)
        if full:
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - (200 << 10)))
    dist.barrier()


def _on_a_small_disk(name: str) -> None:
    disk, part = Path(name), made()
    checkpoints = Checkpoints(disk / "c", Storage(keep_local=1, journal=disk.parent / "journal"))
    train(checkpoints, part, 1, 1)
    _fill(disk, full=True)
    for step in (2, 3):
        advance(part)
        checkpoints.save(step, [part], {})
    assert checkpoints.wait() is False and commit.newest_step(disk / "c") == 1
    _fill(disk, full=False)
    train(checkpoints, part, 4, 4)  # room again: as if nothing had been
    _fill(disk, full=True)
    with pytest.raises(UserError, match=r"3 checkpoints in a row could not be saved .*disk is full.*make room"):
        checkpoints.save(5, [part], {}, last=True)


def test_a_full_disk_is_reported_and_survived_three_times(small_disk: Path) -> None:
    run_ranks(_on_a_small_disk, 2, str(small_disk))
    assert names(small_disk / "c") == ["step-00000004"]
    assert [path.name for path in (small_disk / "c").iterdir()] == ["step-00000004"]  # no debris
    lines = (small_disk.parent / "journal").read_text().splitlines()
    assert len(lines) == 5 and all("NOT saved" in line and "the disk is full" in line for line in lines)


def _one_rank_may_not_write(folder: str) -> None:
    part, checkpoints = made(), Checkpoints(Path(folder), Storage())
    train(checkpoints, part, 1, 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, resource.RLIM_INFINITY))
    advance(part)
    checkpoints.save(2, [part], {})
    assert checkpoints.wait() is False  # on both ranks
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    train(checkpoints, part, 3, 3)
    checkpoints.finish()


def test_a_write_that_fails_on_one_rank_fails_on_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_ranks(_one_rank_may_not_write, 2, str(tmp_path / "c"))
    assert names(tmp_path / "c") == ["step-00000001", "step-00000003"]
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("checkpoint: ")]
    assert len(lines) == 1 and "step-00000002 was NOT saved (rank 1: " in lines[0]
