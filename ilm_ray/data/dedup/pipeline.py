"""Dedup on Ray Data: the signatures of all files -> the documents that fall, and the copies that are kept.

Two shuffles and no join: band keys meet to give star edges; then the signatures of each cluster's members meet, to
measure how alike they are to the copy that stays. Ray Data carries keys and signatures; documents stay in the files.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from ilm_ray.base.files import temporary_path
from ilm_ray.data.dedup.components import Clusters, Drops, Edges, clusters, distinct, keepers, stars
from ilm_ray.data.documents.sources import ROW_BITS

MEMBERS = "members.npy"


@dataclass(frozen=True)
class Signed:
    """The signatures of one input file; `key` begins the ids of its documents (`Source.key`)."""

    path: str
    key: int


def find_duplicates(files: list[Signed], scratch: Path, partitions: int, threshold: float | None) -> Drops:
    """Documents that share the exact key or a band with an older id, for any layout of the shuffle.

    threshold: see `components.keepers`. `scratch` is a folder that all nodes see. Clusters are found in this process:
    16 bytes an edge, a few million edges a second.
    """
    members = clusters(_edges(files, partitions))
    if not len(members.ids):
        nothing = np.zeros(0, np.uint64)
        return Drops(nothing, nothing, np.zeros(0, np.float32), np.zeros(0, bool))
    scratch.mkdir(parents=True, exist_ok=True)
    _save_members(scratch, members)
    ids, keeper, likeness = _judged(files, scratch, partitions, threshold)
    order = np.argsort(ids)
    ids, keeper, likeness = ids[order], keeper[order], likeness[order]
    fallen = ids != keeper
    assert np.array_equal(ids, members.ids), "a member of a cluster has no signature"
    (scratch / MEMBERS).unlink()
    return Drops(ids[fallen], keeper[fallen], likeness[fallen], members.exact[fallen])


def _edges(files: list[Signed], partitions: int) -> Edges:
    rows = (
        ray.data.from_items([{"path": file.path} for file in files], override_num_blocks=len(files))
        .map_batches(_local_stars, batch_size=1, batch_format="numpy")
        .repartition(partitions, keys=["key"])
        .map_batches(_partition_stars, batch_size=None, batch_format="numpy")
    )
    empty = {"id": np.zeros(0, np.uint64), "low": np.zeros(0, np.uint64), "exact": np.zeros(0, bool)}
    batches = [empty, *rows.iter_batches(batch_size=None, batch_format="numpy")]
    high, low, exact = (np.concatenate([batch[name] for batch in batches]) for name in ("id", "low", "exact"))
    return distinct(Edges(high.astype(np.uint64), low.astype(np.uint64), exact.astype(bool)))


def _local_stars(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Combine on the map side: one row a key, so that a key that everyone shares costs one row a file.

    Rows with low == id carry a key to the shuffle. The others are finished edges; their id is their key, which
    spreads them evenly.
    """
    (path,) = batch["path"]
    with np.load(str(path), allow_pickle=False) as saved:
        ids, exact_keys, bands = saved["ids"], saved["exact"], saved["bands"]
    keys = np.concatenate([exact_keys, bands.ravel()])
    owners = np.concatenate([ids, np.repeat(ids, bands.shape[1])])
    exact = np.arange(len(keys)) < len(ids)
    heads, edges = stars(keys, owners, exact)
    return {
        "key": np.concatenate([keys[heads], edges.high]),
        "id": np.concatenate([owners[heads], edges.high]),
        "low": np.concatenate([owners[heads], edges.low]),
        "exact": np.concatenate([exact[heads], edges.exact]),
    }


def _partition_stars(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All rows of a key are here: one sort, star edges to the smallest id."""
    if not len(batch.get("key", ())):
        return {"id": np.zeros(0, np.uint64), "low": np.zeros(0, np.uint64), "exact": np.zeros(0, bool)}
    carried = batch["id"] == batch["low"]
    _, edges = stars(batch["key"][carried], batch["id"][carried], batch["exact"][carried])
    both = distinct(
        Edges(
            np.concatenate([edges.high, batch["id"][~carried]]),
            np.concatenate([edges.low, batch["low"][~carried]]),
            np.concatenate([edges.exact, batch["exact"][~carried]]),
        )
    )
    return {"id": both.high, "low": both.low, "exact": both.exact}


def _save_members(scratch: Path, members: Clusters) -> None:
    """Ids and labels as one mapped table: each file's members are neighbours in it."""
    temporary = temporary_path(scratch / MEMBERS)
    with temporary.open("wb") as out:
        np.save(out, np.stack([members.ids, members.label]))
    temporary.replace(scratch / MEMBERS)


def _judged(
    files: list[Signed], scratch: Path, partitions: int, threshold: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = (
        ray.data.from_items([{"path": f.path, "key": f.key} for f in files], override_num_blocks=len(files))
        .map_batches(partial(_members, scratch=str(scratch)), batch_size=1, batch_format="numpy")
        .repartition(partitions, keys=["label"])
        .map_batches(partial(_judge, threshold=threshold), batch_size=None, batch_format="pyarrow")
    )
    batches = list(rows.iter_batches(batch_size=None, batch_format="numpy"))
    ids, keeper, likeness = (np.concatenate([b[name] for b in batches]) for name in ("id", "keeper", "similarity"))
    return ids.astype(np.uint64), keeper.astype(np.uint64), likeness.astype(np.float32)


def _members(batch: dict[str, np.ndarray], scratch: str) -> pa.Table:
    """Label, id and signature of the documents of one file that are in a cluster."""
    table = np.load(Path(scratch) / MEMBERS, mmap_mode="r", allow_pickle=False)
    borders = np.array([int(batch["key"][0]) << ROW_BITS, int(batch["key"][0]) + 1 << ROW_BITS], np.uint64)
    first, last = np.searchsorted(table[0], borders)
    ids, label = table[0][first:last], table[1][first:last]
    with np.load(str(batch["path"][0]), allow_pickle=False) as saved:
        signatures = np.ascontiguousarray(saved["signatures"][np.searchsorted(saved["ids"], ids)])
    width = signatures.shape[1] * signatures.itemsize
    packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(ids), [None, pa.py_buffer(signatures)])
    return pa.table({"label": pa.array(np.array(label)), "id": pa.array(np.array(ids)), "signature": packed})


def _judge(table: pa.Table, threshold: float | None) -> dict[str, np.ndarray]:
    """The kept copy of every member; whole clusters are here."""
    if "label" not in table.column_names or not len(table):
        return {"id": np.zeros(0, np.uint64), "keeper": np.zeros(0, np.uint64), "similarity": np.zeros(0, np.float32)}
    packed = table["signature"].combine_chunks()
    width = packed.type.byte_width
    flat = np.frombuffer(packed.buffers()[1], np.uint32, offset=packed.offset * width, count=len(packed) * width // 4)
    ids = table["id"].to_numpy()
    keeper, likeness = keepers(table["label"].to_numpy(), ids, flat.reshape(len(packed), -1), threshold)
    return {"id": ids, "keeper": keeper, "similarity": likeness}
