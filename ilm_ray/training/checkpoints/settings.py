"""Derives the storage of a stage's checkpoints from the run's configuration."""

from pathlib import Path

from ilm_ray.config.training import PretrainConfig
from ilm_ray.run.stage import work_fingerprint
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.checkpoints.retention import StoreRules


def storage_of(pretrain: PretrainConfig, run_dir: Path, folder: Path) -> Storage:
    """Storage of the stage in `folder`; SFT and the reward model take pre-training's stores too.

    A stage's work has addresses of its own, `<store>/<run>/<stage>/<fingerprint>`: a new node finds what it can go on
    from, and never a checkpoint of other settings or inputs.
    """
    fingerprint = work_fingerprint(folder)

    def address(url: str | None) -> str | None:
        # A model that another stage trains for itself has no fingerprint, is small, and stays on the local disk.
        return f"{url.rstrip('/')}/{run_dir.name}/{folder.name}/{fingerprint}" if url and fingerprint else None

    return Storage(
        keep_local=pretrain.keep_checkpoints,
        store=address(pretrain.store),
        cold=address(pretrain.store_cold),
        rules=StoreRules(
            pretrain.store_keep, pretrain.store_keep_every, pretrain.cold_after_hours if pretrain.store_cold else None
        ),
        fingerprint=fingerprint or "",
        journal=run_dir / "journal.jsonl",
    )
