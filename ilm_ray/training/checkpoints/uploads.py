"""Thread that uploads committed checkpoints to a store while training goes on."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.retention import Copy, StoreRules, store_plan
from ilm_ray.training.checkpoints.store import Store

ATTEMPTS = 4  # of one checkpoint, before the next one comes
FIRST_WAIT_S = 2.0  # between attempts; doubled each time


class Uploads:
    """Uploads checkpoints of `folder` that the store lacks, then moves and deletes copies by the rules.

    One rank has it. A checkpoint that could not be uploaded is reported and tried again at the next `wake`.
    say: receives one line for each failure; after_upload: called in the thread after each upload.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        cold: Store | None,
        rules: StoreRules,
        say: Callable[[str], None],
        after_upload: Callable[[], None],
    ) -> None:
        self.folder, self.store, self.cold, self.rules = folder, store, cold, rules
        self._say, self._after_upload = say, after_upload
        self._changed = threading.Condition()
        self._requests, self._handled = 0, 0
        # A daemon: a storage that hangs must not keep a finished process alive.
        threading.Thread(target=self._run, name="checkpoint-uploads", daemon=True).start()

    def wake(self) -> None:
        """Request a round of uploads. Returns at once."""
        with self._changed:
            self._requests += 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until all requests have been handled; False if it takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._handled == self._requests, seconds)

    def missing(self) -> list[int]:
        """Steps of local checkpoints that the store does not have, oldest first."""
        paths = commit.committed(self.folder)
        return [commit.step_of(path) for path in paths if not commit.is_uploaded(path, self.store.url)]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests != self._handled)
                requests = self._requests
            try:
                self._work()
            # A storage may raise anything: it is reported, and training goes on.
            except Exception as error:
                self._say(f"store {self.store.url}: {_one_line(error)}; it is tried again after the next checkpoint")
            with self._changed:
                self._handled = requests
                self._changed.notify_all()

    def _work(self) -> None:
        for step in reversed(self.missing()):  # the newest is worth most
            path = self.folder / commit.name_of(step)
            self._patiently(path)
            self._after_upload()
        self._keep_rules()

    def _patiently(self, path: Path) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self.store.upload(path)
                (path / commit.UPLOADED).write_text(self.store.url, encoding="utf-8")
                return
            except Exception as error:
                if not (path / commit.COMMIT).exists():
                    return  # deleted meanwhile to make room; that was said then
                if attempt == ATTEMPTS - 1:
                    raise RuntimeError(f"{path.name} could not be uploaded ({_one_line(error)})") from error
                time.sleep(FIRST_WAIT_S * 2**attempt)

    def _keep_rules(self) -> None:
        copies = [Copy(step, record.time) for step, record in self.store.checkpoints().items()]
        if self.cold is not None:
            copies += [Copy(step, record.time, cold=True) for step, record in self.cold.checkpoints().items()]
        plan = store_plan(copies, self.rules, time.time())
        for copy in plan.move:
            assert self.cold is not None
            self.store.move(copy.step, self.cold)
        for copy in plan.delete:
            where = self.cold if copy.cold else self.store
            assert where is not None
            where.delete(copy.step)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
