"""A place for checkpoints behind any fsspec URL, with the paths of the local disk: COMMIT is written last."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import fsspec

from ilm_ray.base.errors import UserError
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.commit import Commit

_CHUNK = 8 << 20  # bytes copied at once between two stores


class Store:
    """Checkpoints under one URL (`s3://bucket/prefix`, a folder, ...). All methods raise the storage's errors.

    The URL belongs to one piece of work: steps of another run or of other settings never lie under it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            # Listings are not cached: other processes write here too.
            self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise UserError(f"store {url}: {error}; give an fsspec URL such as s3://bucket/folder") from None

    def checkpoints(self) -> dict[int, Commit]:
        """Records of the whole checkpoints, by step. A checkpoint whose record cannot be read is not whole."""
        records = {}
        for marker in self._files.glob(f"{self._root}/step-*/{commit.COMMIT}"):
            try:
                record = commit.parse(self._files.cat_file(marker).decode())
            except ValueError:
                continue
            records[record.step] = record
        return records

    def upload(self, path: Path) -> None:
        """Copy the local checkpoint in folder `path`."""
        record = commit.read(path)
        self._open(record.step)
        for name in record.files:
            self._files.put_file(str(path / name), self._at(record.step, name))
        self._files.pipe_file(self._at(record.step, commit.COMMIT), record.text().encode())

    def fetch(self, step: int, folder: Path) -> Path:
        """Copy a step's checkpoint to `folder/step-…`, which appears whole and replaces an older copy.

        The caller verifies the files. Raises ValueError where the record is not that of the step.
        """
        record = self._record(step)
        target, temporary = folder / commit.name_of(step), folder / f"fetching-{commit.name_of(step)}"
        shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was killed
        temporary.mkdir(parents=True)
        for name in record.files:
            self._files.get_file(self._at(step, name), str(temporary / name))
        (temporary / commit.COMMIT).write_text(record.text(), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        return target

    def move(self, step: int, other: "Store") -> None:
        """Copy a step to another store, hashing its files, then delete it here. Raises ValueError at a wrong hash."""
        record = self._record(step)
        other._open(step)
        for name, file in record.files.items():
            hashed = hashlib.sha256()
            with self._files.open(self._at(step, name), "rb") as source, other._create(step, name) as out:
                while chunk := source.read(_CHUNK):
                    hashed.update(chunk)
                    out.write(chunk)
            if hashed.hexdigest() != file.sha256:
                raise ValueError(f"{self._at(step, name)} has another SHA-256 than when it was written")
        other._files.pipe_file(other._at(step, commit.COMMIT), record.text().encode())
        self.delete(step)

    def delete(self, step: int) -> None:
        """Delete a step. COMMIT goes first: a deletion that was killed leaves no checkpoint behind."""
        marker = self._at(step, commit.COMMIT)
        if self._files.exists(marker):
            self._files.rm_file(marker)
        self._files.rm(self._at(step, ""), recursive=True)

    def _record(self, step: int) -> Commit:
        record = commit.parse(self._files.cat_file(self._at(step, commit.COMMIT)).decode())
        if record.step != step:
            raise ValueError(f"{self._at(step, commit.COMMIT)} is the record of step {record.step}")
        return record

    def _open(self, step: int) -> None:
        """An earlier copy of the step, whole or not, is no checkpoint while a new one comes in."""
        marker = self._at(step, commit.COMMIT)
        if self._files.exists(marker):
            self._files.rm_file(marker)
        bucket = self._root.split("/")[0]
        if bucket and not self._files.exists(bucket):  # s3fs would make one of any mistyped name
            raise FileNotFoundError(f"bucket {bucket} does not exist")
        self._files.makedirs(self._at(step, ""), exist_ok=True)

    def _create(self, step: int, name: str) -> Any:
        return self._files.open(self._at(step, name), "wb")

    def _at(self, step: int, name: str) -> str:
        return f"{self._root}/{commit.name_of(step)}/{name}".rstrip("/")
