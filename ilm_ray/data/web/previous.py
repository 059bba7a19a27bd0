"""Finished runs over other dumps that a new one is compared with: their signatures are read, never their text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.base.places import located
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.components import Drops
from ilm_ray.data.dedup.drops import load_drops
from ilm_ray.data.documents.paths import drops_path, read_sources, replaced_path, signatures_path
from ilm_ray.data.documents.sources import ROW_BITS, Source, is_dated
from ilm_ray.run import manifest as manifests

SAME = ("num_hashes", "ngram", "threshold")  # settings without which keys of two runs cannot meet


@dataclass(frozen=True)
class FinishedRun:
    """The text stage of a finished run."""

    folder: Path
    sources: list[Source]
    fingerprint: str

    def signatures(self) -> Iterator[tuple[Path, Source]]:
        """Every file's signatures."""
        for source in self.sources:
            yield signatures_path(self.folder, source.index), source

    def fallen(self) -> np.ndarray:
        """Ids that this run removed as duplicates, uint64, sorted."""
        drops = [load_drops(drops_path(self.folder, source.index)).ids for source in self.sources]
        return np.sort(np.concatenate(drops)) if drops else np.zeros(0, np.uint64)


def finished_runs(config: TextConfig, new: list[Source]) -> list[FinishedRun]:
    """The runs of `text.previous`.

    Raises UserError where one is not finished, was signed otherwise, or holds a dump that another one holds too.
    """
    runs: list[FinishedRun] = []
    dumps = {(source.source, source.dump) for source in new}
    for name in config.previous:
        folder = Path(located(name)) / "text"
        manifest = manifests.load(folder)
        if manifest is None:
            raise UserError(f"text.previous: {name} holds no finished text stage; give the --run-dir of a finished run")
        signed = manifest.settings["text"]
        for key in SAME:
            if signed.get(key) != getattr(config, key):
                raise UserError(
                    f"text.previous: {name} was made with text.{key}={signed.get(key)}, this run has "
                    f"{getattr(config, key)}; duplicates can only be found with equal settings"
                )
        run = FinishedRun(folder, read_sources(folder), manifest.fingerprint)
        for path, _ in run.signatures():
            if not path.is_file():
                raise UserError(f"text.previous: {path} is missing; restore it or leave {name} out")
        mine = {(source.source, source.dump) for source in run.sources}
        if shared := sorted(dump for _, dump in mine & dumps):
            raise UserError(
                f"text.previous: {name} holds dump {shared[0]}, which is there already; leave one of them out"
            )
        dumps |= mine
        runs.append(run)
    if runs and (unclear := sorted(dump for source, dump in dumps if not source and not is_dated(dump))):
        raise UserError(
            f"text.previous: dump '{unclear[0]}' has no date in its name, so nobody knows which copy is newer; "
            "name its folder like CC-MAIN-2024-10"
        )
    return runs


def replaced(run: FinishedRun, others: list[FinishedRun], drops: Drops) -> Iterator[dict[str, Any]]:
    """Survivors of a finished run that now have a better copy: newer, or with a smaller id.

    Each row says where the document lies (`run`, `file`, `dump`, `row`) and which document replaces it.
    """
    known = [int(row["id"]) for other in others for row in read_jsonl(replaced_path(other.folder))]
    gone = np.union1d(run.fallen(), np.array(known, np.uint64))
    keys = {source.key: source for source in run.sources}
    mine = drops.part(np.isin(drops.ids >> np.uint64(ROW_BITS), np.array(list(keys), np.uint64)))
    mine = mine.part(~np.isin(mine.ids, gone))
    for document, copy, alike in zip(
        mine.ids.tolist(), mine.duplicate_of.tolist(), mine.similarity.tolist(), strict=True
    ):
        source = keys[document >> ROW_BITS]
        file, row = source.place(document)
        yield {
            "id": str(document),
            "run": str(run.folder.parent),
            "file": file,
            "dump": source.dump,
            "row": row,
            "duplicate_of": str(copy),
            "similarity": round(alike, 4),
        }
