"""Rows of the training stages sent to Weights & Biases or trackio while they run; both have the same three calls.

Off unless `track.to` names one. A service that is slow or gone costs a run nothing: a thread sends, a failure is one
line, and leaving waits for CLOSE_S at most.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config.schema import TrackConfig
from ilm_ray.report.tensorboard import STEP_COLUMNS, scalars
from ilm_ray.run.rundata import read_rows

SENT = "tracked.json"  # of a run: stage -> the last step that was sent
LOOK_S = 5.0
CLOSE_S = 30.0


def require_tracker(track: TrackConfig) -> None:
    """Raises UserError where `track.to` names a package that is not installed."""
    if track.to is not None and importlib.util.find_spec(track.to) is None:
        raise UserError(f"track.to={track.to} is not installed; pip install {track.to}, or leave track.to out")


class Tracker:
    """A thread that sends the new rows of each `<stage>/metrics.jsonl` of a run; without `track.to` it does nothing.

    Each stage is a run of its own there, which a later job of the same run folder goes on with. Steps that are repeated
    after a loss are sent once. say: gets one line where sending failed.
    """

    def __init__(self, track: TrackConfig, run_dir: Path, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self.track, self.run_dir, self.settings, self.say = track, run_dir, settings, say
        self._done, self._stage = threading.Event(), ""
        self._seen = dict[str, int]()  # stage -> bytes of its rows at the last look
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        if self.track.to is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._thread.is_alive():
            return
        self._done.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self.say(f"{self.track.to} did not take the last rows within {CLOSE_S:.0f} s")

    def _follow(self) -> None:
        try:
            service = importlib.import_module(str(self.track.to))
            last = False
            while not last:
                last = self._done.wait(LOOK_S)
                for stage in STEP_COLUMNS:
                    self._send_new(service, stage)
            if self._stage:
                service.finish()
        except Exception as error:  # whatever a service's client raises, the run goes on
            self.say(f"{self.track.to} gets no further rows: {type(error).__name__}: {error}".splitlines()[0])

    def _send_new(self, service: Any, stage: str) -> None:
        path = self.run_dir / stage / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if self._seen.get(stage, 0) == size:  # a long run's rows are not read every few seconds
            return
        self._seen[stage] = size
        sent = self._sent()
        rows = [(step, row) for step, row in numbered(self.run_dir, stage) if step > sent.get(stage, -1)]
        if not rows:
            return
        if self._stage != stage:
            self._begin(service, stage)
        for step, row in rows:
            finite = {name: value for name, value in scalars(row) if math.isfinite(value)}
            if step > sent.get(stage, -1):  # rows of a repeated step follow its first ones
                service.log(finite, step=step)
                sent[stage] = step
        write_text_atomic(self.run_dir / SENT, json.dumps(sent))

    def _begin(self, service: Any, stage: str) -> None:
        if self._stage:
            service.finish()
        name = f"{self.run_dir.name}-{stage}"
        own = {"id": hashlib.sha256(f"{self.run_dir.absolute()} {stage}".encode()).hexdigest()[:16]}
        service.init(
            project=self.track.project,
            name=name,
            config=self.settings,
            resume="allow",
            **(own if self.track.to == "wandb" else {}),  # trackio goes on with the run of that name
        )
        self._stage = stage

    def _sent(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.run_dir / SENT).read_text(encoding="utf-8")))
        return {}


def numbered(run_dir: Path, stage: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a stage, each with the stage's own count of steps; those without one are left out."""
    rows, _ = read_rows(run_dir / stage / "metrics.jsonl")
    found = []
    for row in rows:
        step = next((row[column] for column in STEP_COLUMNS[stage] if column in row), None)
        if step is not None:
            found.append((int(step), row))
    return found
