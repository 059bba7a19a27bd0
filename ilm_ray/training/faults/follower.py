"""Follows a training from the driver: progress, bad steps, layouts, diagnoses of failed attempts."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from ilm_ray.run import metrics
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.progress import Progress
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.faults.attempts import Attempts, ended_well, failed, left, lost, started
from ilm_ray.training.faults.diagnosis import write_diagnosis


class Follower:
    """A thread that shows the workers' progress in the driver and diagnoses every attempt that ended too early.

    also: called at every look; lost_nodes: gives the ids of nodes that have left the cluster.
    """

    def __init__(
        self,
        folder: Path,
        attempts: Attempts,
        journal: Journal,
        also: Callable[[], None],
        lost_nodes: Callable[[], Iterable[str]],
        every_s: float = 2.0,
    ) -> None:
        self.folder, self.attempts, self.journal = folder, attempts, journal
        self.also, self.lost_nodes = also, lost_nodes
        self.every_s, self.shown, self.incidents = every_s, 0, 0
        self.laid_out = len(attempts.all())
        self.resized = len(attempts.all()) - 1  # an earlier run has reported the attempts before this one
        self.start = commit.newest_step(folder / "checkpoints")
        self.progress: Progress | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop following, and diagnose the last attempt if it failed."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._look()
        self._diagnose(self.attempts.all())

    def _follow(self) -> None:
        while not self._stop.wait(self.every_s):
            self._look()
            self._diagnose(self.attempts.all()[:-1])

    def _look(self) -> None:
        self.also()
        rows = read_journal(self.folder / "metrics.jsonl")
        if rows and rows[-1]["step"] != self.shown:
            last = rows[-1]
            self.progress = self.progress or Progress(self.folder.name, last["steps"], done=self.start)
            self.shown = last["step"]
            self.progress.update(self.shown, loss=last["loss"], tokens_per_second=last["tokens_per_second"])
        incidents = read_journal(self.folder / "incidents.jsonl")
        for row in incidents[self.incidents :]:
            self.journal.event("incident", **{k: row[k] for k in ("step", "incident", "why", "action")})
        self.incidents = len(incidents)
        for attempt in self.attempts.all()[self.laid_out :]:
            if (attempt / "layout.txt").exists():
                self.journal.event("layout", why=(attempt / "layout.txt").read_text(encoding="utf-8"))
                self.laid_out = int(attempt.name.split("-")[1]) + 1

    def _diagnose(self, over: list[Path]) -> None:
        known = {row["attempt"] for row in read_journal(self.attempts.folder / "diagnoses.jsonl")}
        following = dict(zip(self.attempts.all(), self.attempts.all()[1:], strict=False))
        for number, attempt in enumerate(over):
            after = following.get(attempt)
            if left(attempt) and after is not None and number >= self.resized:
                self.resized = number + 1
                workers = started(after)["workers"]
                self.journal.event("leave", why="a node was about to go", workers=workers, **lost(attempt, after))
            if number in known or ended_well(attempt):
                continue
            cost = {} if after is None else lost(attempt, after)
            if failed(attempt) or after is None:
                row = write_diagnosis(attempt, self.lost_nodes())
                tags = {"stage": self.folder.name, "category": row["category"]}
                metrics.counter(metrics.FAILURES).inc(tags=tags)
                self.journal.event("recover" if after else "fail", why=row["line"], **cost)
            elif number >= self.resized:
                self.resized = number + 1
                if started(after)["workers"] != started(attempt)["workers"]:
                    self.journal.event("resize", workers=started(after)["workers"], **cost)
