"""The checkpoints of one stage's training: saved beside it, uploaded, verified before one is used."""

import errno
import json
import shutil
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ilm_ray.base.errors import UserError
from ilm_ray.run.journal import Journal
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.choose import choose
from ilm_ray.training.checkpoints.retention import StoreRules, local_deletions
from ilm_ray.training.checkpoints.rng import rng_state, set_rng_state
from ilm_ray.training.checkpoints.states import Part, load_states, states_of
from ilm_ray.training.checkpoints.store import Store
from ilm_ray.training.checkpoints.uploads import Uploads
from ilm_ray.training.checkpoints.writer import CommittingWriter, rng_name

MAX_FAILURES = 3  # saves in a row
SAVE_DEADLINE_S = 1800.0  # for one save
LAST_UPLOADS_S = 300.0  # for what is still to be uploaded at the end of training; other ranks wait 600 s for this one


@dataclass(frozen=True)
class Storage:
    """Places of checkpoints, and the time that they stay.

    keep_local: newest checkpoints on the local disk; store, cold: addresses of this stage's work in the two stores;
    fingerprint: of the stage's settings and inputs; journal: the run's, for events that a person should know.
    """

    keep_local: int = 2
    store: str | None = None
    cold: str | None = None
    rules: StoreRules = field(default_factory=StoreRules)
    fingerprint: str = ""
    journal: Path | None = None


@dataclass(frozen=True)
class Restored:
    """The checkpoint that training resumes from. step: 0 if there was none; notes: lines for people."""

    step: int
    state: dict[str, Any]
    notes: tuple[str, ...]


class Checkpoints:
    """Saves and restores model and optimizers of all ranks in `folder`. Every rank has one and calls all its methods in
    the same order, except `close`."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage, self.rank = folder, storage, dist.get_rank()
        # A group of its own: messages of the saving threads must not meet those of training.
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=SAVE_DEADLINE_S))
        on_gpu = torch.cuda.is_available()
        # Kept from save to save, and with it the memory that the states are copied to.
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self._pending: tuple[int, Future[None]] | None = None
        self._failures = 0
        self._deleting = threading.Lock()
        self.store = Store(storage.store) if storage.store else None
        self.cold = Store(storage.cold) if storage.cold else None
        self._uploads: Uploads | None = None
        if self.store is not None and self.rank == 0:
            self._uploads = Uploads(folder, self.store, self.cold, storage.rules, self._say, self._delete_old)

    def restore(self, parts: Sequence[Part]) -> Restored:
        """Load the newest checkpoint that is whole, written by any layout: a local one, else one of the stores.

        Raises UserError where there may be one that cannot be reached.
        """
        self.wait()
        stores = [store for store in (self.store, self.cold) if store is not None]
        path, notes = choose(self.folder, stores, self.storage.fingerprint, self.group)
        if self.rank == 0:
            for note in notes:
                self._say(note)
        if path is None:
            return Restored(0, {}, tuple(notes))
        load_states(path, parts, self.group)
        rng = path / rng_name(self.rank)
        if rng.exists():  # else there are more ranks than there were
            set_rng_state(json.loads(rng.read_text()))
        if self._uploads is not None:
            self._uploads.wake()  # for uploads that an earlier attempt did not get to
        record = commit.read(path)
        return Restored(record.step, record.state, tuple(notes))

    def save(self, step: int, parts: Sequence[Part], state: dict[str, Any], last: bool = False) -> None:
        """Begin to save; training may go on at once. `state` is small JSON that `restore` gives back.

        A save that fails is reported, and the next one follows as if nothing had been; with `last` the call returns
        once it is committed. Raises as `wait` does.
        """
        self.wait()
        self._begin(step, parts, state)
        while last and not self.wait():
            self._begin(step, parts, state)

    def wait(self) -> bool:
        """Wait for the save under way, if there is one. False if it failed on some rank, and then on all.

        Raises UserError at the third failure in a row, or where it takes longer than half an hour.
        """
        if self._pending is None:
            return True
        (step, ended), self._pending = self._pending, None
        try:
            ended.result(SAVE_DEADLINE_S)
        except CheckpointException as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise UserError(
                    f"{MAX_FAILURES} checkpoints in a row could not be saved in {self.folder} ({_reason(error)}); make "
                    "room there or repair it, and start the job again: it goes on from the newest one"
                ) from None
            return False
        except TimeoutError:
            raise UserError(
                f"the checkpoint of step {step} was not in {self.folder} after {SAVE_DEADLINE_S:.0f} s; look at its "
                "file system, and start the job again: it goes on from the newest one"
            ) from None
        self._failures = 0
        return True

    def finish(self) -> None:
        """At the end of training: wait for the last save, and for a bounded time for the uploads."""
        self.wait()
        self._stager.close()
        dist.destroy_process_group(self.group)
        if self._uploads is None:
            return
        self._uploads.wake()  # failed uploads get one more chance
        self._uploads.wait(LAST_UPLOADS_S)
        if missing := self._uploads.missing():
            self._say(f"steps {missing} are in {self.folder} only, not in {self._uploads.store.url}: copy them by hand")

    def _begin(self, step: int, parts: Sequence[Part], state: dict[str, Any]) -> None:
        journal = self.storage.journal
        size = journal.stat().st_size if journal is not None and journal.exists() else 0
        target = self.folder / commit.name_of(step)
        writer = CommittingWriter(target, step, state, self.storage.fingerprint, size, rng_state())
        ended: Future[None] = Future()
        saved = dcp.async_save(
            states_of(parts), storage_writer=writer, process_group=self.group, async_stager=self._stager
        )
        assert isinstance(saved, Future)
        self._pending = step, ended
        saved.add_done_callback(lambda done: self._after(target, done, ended))

    def _after(self, target: Path, saved: Future[Any], ended: Future[None]) -> None:
        """Runs in the saving thread, before `wait` returns."""
        try:
            error = saved.exception()
            if self.rank == 0 and error is None:
                self._delete_old()
                if self._uploads is not None:
                    self._uploads.wake()
            elif self.rank == 0 and isinstance(error, CheckpointException):
                shutil.rmtree(target)  # no rank writes to it any more, and the next save may need the room
                self._delete_old()
                self._say(
                    f"{target} was NOT saved ({_reason(error)}); training goes on and the next checkpoint is tried as "
                    f"usual, {MAX_FAILURES} failures in a row end it; make room there"
                )
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)
        except BaseException as trouble:
            ended.set_exception(trouble)

    def _delete_old(self) -> None:
        with self._deleting:
            paths = {commit.step_of(path): path for path in commit.committed(self.folder)}
            if not paths:
                return
            url = self.store.url if self.store else ""
            uploaded = {step: commit.is_uploaded(path, url) for step, path in paths.items()}
            newest = commit.read(paths[max(paths)])
            disk_full = shutil.disk_usage(self.folder).free < newest.bytes
            for step in local_deletions(uploaded, self.storage.keep_local, self.store is not None, disk_full):
                if self.store is not None and not uploaded[step]:
                    self._say(f"{paths[step]} is deleted although {url} does not have it: the disk is full")
                (paths[step] / commit.COMMIT).unlink()  # first: half a deletion leaves nothing that counts
                shutil.rmtree(paths[step])

    def _say(self, what: str) -> None:
        """Report one line. Only rank 0 calls it, for all ranks."""
        if self.storage.journal is not None:
            Journal(self.storage.journal).event("checkpoint", why=what)
        else:
            print(f"checkpoint: {what}", file=sys.stderr, flush=True)


def _reason(error: CheckpointException) -> str:
    """The first failing rank and its error."""
    rank = min(error.failures)
    cause = error.failures[rank][0]
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"rank {rank}: the disk is full"
    return f"rank {rank}: " + " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
