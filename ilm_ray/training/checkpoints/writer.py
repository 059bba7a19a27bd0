"""Writes a checkpoint to the disk: every rank writes and hashes its own files, rank 0 commits when all have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.commit import File


@dataclass(frozen=True)
class Written:
    """Name, size and hash of a file, from its rank to rank 0."""

    name: str
    file: File


class CommittingWriter(dcp.FileSystemWriter):
    """torch's writer, which fsyncs each file, and its two-phase protocol: an error on one rank is an error on all.

    rng: states of this rank's random number generators; written beside its tensors, for they differ by rank.
    """

    def __init__(
        self, target: Path, step: int, state: Mapping[str, Any], fingerprint: str, journal: int, rng: dict[str, Any]
    ) -> None:
        super().__init__(target)
        self.target, self.step, self.state, self.fingerprint = target, step, dict(state), fingerprint
        self.journal, self.rng = journal, rng

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On rank 0, before anybody writes: nothing of an earlier attempt at this step may stay."""
        (self.target / commit.COMMIT).unlink(missing_ok=True)
        for left in self.target.iterdir():
            left.unlink()
        return super().prepare_global_plan(plans)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[Any]]:
        try:
            results = super().write_data(plan, planner).value()
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch.save hides the file system's error
                raise error.__context__ from None
            raise
        rng = self.target / rng_name(self.rank or 0)
        rng.write_text(json.dumps(self.rng))
        commit.sync(rng)
        mine = [*self.target.glob(f"{plan.storage_data.prefix}*"), rng]
        done: Future[list[Any]] = Future()
        done.set_result([*results, *(Written(path.name, commit.describe(path)) for path in mine)])
        return done

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """On rank 0, after every rank's files are on the disk."""
        entries = [entry for of_rank in results for entry in of_rank]
        super().finish(metadata, [[entry for entry in entries if isinstance(entry, WriteResult)]])
        files = {entry.name: entry.file for entry in entries if isinstance(entry, Written)}
        files[".metadata"] = commit.describe(self.target / ".metadata")
        commit.write(self.target, self.step, self.state, self.fingerprint, self.journal, files)


def rng_name(rank: int) -> str:
    """File of a rank's random number generators."""
    return f"rng-{rank}.json"
