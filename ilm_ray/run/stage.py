"""A stage: settings and upstream manifests in, a folder and a manifest out; skipped when nothing changed."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path, write_text_atomic
from ilm_ray.config import Config
from ilm_ray.run import manifest as manifests
from ilm_ray.run.journal import Journal
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.memory import PeakMemory
from ilm_ray.run.whole import require_whole

IN_PROGRESS = "in_progress"
CHANGED = "inputs changed"  # in the place of a fingerprint: no run takes up these partial results


@dataclass(frozen=True)
class Result:
    """A stage's result for its manifest: files (absolute) that later stages read, and figures for people."""

    files: list[Path]
    metrics: dict[str, Any]


@dataclass
class Context:
    """Configuration, folders, journal and upstream manifests for a stage's work."""

    config: Config
    folder: Path  # the stage's own output folder
    run_dir: Path
    journal: Journal
    upstream: dict[str, Manifest] = field(default_factory=dict)

    def of(self, stage: str) -> Path:
        """Folder of an upstream stage."""
        return self.run_dir / stage


@dataclass(frozen=True)
class Stage:
    """`work(context)` must be a pure function of settings, upstream manifests and `sources`.

    settings: the part of the configuration it depends on, as JSON; sources: fingerprints of outside inputs.
    A run killed half-way finds its own partial files again if nothing that it depends on changed meanwhile.
    """

    name: str
    needs: tuple[str, ...] | Callable[[Config], tuple[str, ...]]  # stages; by the settings where the road varies
    settings: Callable[[Config], dict[str, Any]]
    work: Callable[[Context], Result]
    sources: Callable[[Config], dict[str, str]] = lambda config: {}
    trains: bool = False  # needs the memory and the workers of training
    reads: tuple[str, ...] = ()  # settings and sections of the configuration that it reads, for `--help`

    def needed(self, config: Config) -> tuple[str, ...]:
        """Stages whose results it reads."""
        return self.needs(config) if callable(self.needs) else self.needs


def check_run_dir(stages: Sequence[Stage], config: Config, run_dir: Path) -> None:
    """Raise UserError where a stage needs another that is neither finished in `run_dir` nor about to run before it,
    or where a stage's folder holds something that is not ours: its name may be that of a folder of yours."""
    coming = set[str]()
    for stage in stages:
        folder = run_dir / stage.name
        if folder.exists() and not _is_ours(folder):
            raise UserError(
                f"{folder} exists and was not written by stage '{stage.name}'; give another --run-dir or move it away"
            )
        for name in stage.needed(config):
            if name not in coming and manifests.load(run_dir / name) is None:
                raise UserError(
                    f"stage '{stage.name}' needs stage '{name}', not finished in {run_dir}; run its job first"
                )
        coming.add(stage.name)


def run_stage(stage: Stage, config: Config, run_dir: Path, journal: Journal) -> Manifest:
    """Run `stage` unless its manifest still holds. The stages that it needs must be finished (see `check_needs`)."""
    folder = run_dir / stage.name
    upstream = {}
    for name in stage.needed(config):
        manifest = manifests.load(run_dir / name)
        assert manifest is not None, f"{stage.name} was started without {name}"
        upstream[name] = manifest
    inputs = {name: m.fingerprint for name, m in upstream.items()} | stage.sources(config)
    settings = json.loads(json.dumps(stage.settings(config), default=str))
    done = manifests.load(folder)
    reason = manifests.why_stale(done, folder, settings, inputs)
    if reason is None:
        assert done is not None
        journal.event("skip", stage=stage.name, why="settings, inputs and outputs are unchanged")
        return done
    for name, manifest in upstream.items():
        require_whole(run_dir / name, manifest)
    wanted = manifests.digest([settings, inputs])
    resumed = _prepare(folder, wanted)
    journal.event("run", stage=stage.name, why=reason + (", going on from partial results" if resumed else ""))
    started = time.monotonic()
    with PeakMemory() as memory:
        result = stage.work(Context(config, folder, run_dir, journal, upstream))
    _require_same_inputs(stage, config, run_dir, upstream, inputs)
    finished = Manifest(
        stage=stage.name,
        settings=settings,
        inputs=inputs,
        files=manifests.describe_files(folder, result.files),
        metrics=json.loads(json.dumps(result.metrics)),
        seconds=round(time.monotonic() - started, 2),
        peak_memory_mb=round(memory.peak_mb, 1),
    )
    manifests.commit(folder, finished)
    (folder / IN_PROGRESS).unlink(missing_ok=True)
    journal.event("done", stage=stage.name, seconds=finished.seconds, peak_memory_mb=finished.peak_memory_mb)
    return finished


def _require_same_inputs(
    stage: Stage, config: Config, run_dir: Path, upstream: dict[str, Manifest], inputs: dict[str, str]
) -> None:
    """Raise UserError where inputs are not those that the stage began with: parts of its result may be of either. Its
    partial results are then of no use to another run."""
    now = dict[str, str]()
    try:
        for name, manifest in upstream.items():
            require_whole(run_dir / name, manifest)
            found = manifests.load(run_dir / name)
            now[name] = "" if found is None else found.fingerprint
        now |= stage.sources(config)
    except UserError:  # what was an input is none any more
        write_text_atomic(run_dir / stage.name / IN_PROGRESS, CHANGED)
        raise
    if changed := sorted(name for name in now.keys() | inputs.keys() if now.get(name) != inputs.get(name)):
        write_text_atomic(run_dir / stage.name / IN_PROGRESS, CHANGED)
        raise UserError(
            f"input '{changed[0]}' of stage '{stage.name}' changed while the stage was running, so its result would be "
            "of two inputs; leave the input as it is and give the command again"
        )


def work_fingerprint(folder: Path) -> str | None:
    """Identity of the settings and inputs of the stage that is under way, or finished, in `folder`; None: neither."""
    marker = folder / IN_PROGRESS
    if marker.is_file():
        return marker.read_text(encoding="utf-8")
    done = manifests.load(folder)
    return None if done is None else manifests.digest([done.settings, done.inputs])


def _is_ours(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    # A driver killed while it begins leaves the marker's temporary file, and nothing else.
    real = [path for path in folder.iterdir() if not (path.name.startswith(".") and path.name.endswith(".tmp"))]
    return not real or (folder / manifests.NAME).exists() or (folder / IN_PROGRESS).exists()


def _prepare(folder: Path, wanted: str) -> bool:
    """Empty the folder unless it holds partial results of exactly this work; True if it does."""
    marker = folder / IN_PROGRESS
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        for left in folder.rglob(".*.tmp"):  # half-written files of the attempt that was killed
            left.unlink(missing_ok=True)  # workers of a killed driver live on for a moment, and rename theirs
        return True
    if folder.exists():
        # Out of the way first: a kill in the middle of the removal leaves nothing that looks like a stage.
        trash = temporary_path(folder)
        folder.rename(trash)
        shutil.rmtree(trash)
    folder.mkdir(parents=True)
    write_text_atomic(marker, wanted)
    return False
