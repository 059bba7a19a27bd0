"""Derives the storage of a stage's checkpoints from the run's configuration."""

from pathlib import Path

from ilm_ray.config.training import TrainingConfig
from ilm_ray.run.stage import work_fingerprint
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.checkpoints.retention import StoreRules


def storage_of(training: TrainingConfig, run_dir: Path, folder: Path) -> Storage:
    """Storage of the stage in `folder`; every training has the same stores.

    A stage's work has addresses of its own, `<store>/<run>/<stage>/<fingerprint>`: a new node finds checkpoints to go
    on from, and never a checkpoint of other settings or inputs.
    """
    fingerprint = work_fingerprint(folder)

    def address(url: str | None) -> str | None:
        # A model that another stage trains for itself has no fingerprint, is small, and stays on the local disk.
        return f"{url.rstrip('/')}/{run_dir.name}/{folder.name}/{fingerprint}" if url and fingerprint else None

    return Storage(
        keep_local=training.keep_checkpoints,
        store=address(training.store),
        cold=address(training.store_cold),
        rules=StoreRules(
            training.store_keep, training.store_keep_every, training.cold_after_hours if training.store_cold else None
        ),
        fingerprint=fingerprint or "",
        journal=run_dir / "journal.jsonl",
    )
