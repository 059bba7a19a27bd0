"""An actor that `jobs/doctor.py` starts on every node to check it."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any  # torch's stubs do not know the methods of ProcessGroupGloo

import ray
import torch
import torch.distributed as dist

from ilm_ray.run.doctor import Finding, check_gpus, check_shared_memory, check_storage, installed_version, own_versions
from ilm_ray.run.gpus import check_driver, listed_gpus

MESSAGE_BYTES = 32 * 2**20
ROUNDS = 3
MUST_AGREE = ("ray", "torch", "numpy", "ilm_ray")


class Probe:
    """Checks one node. Its methods return plain figures and checks, no tensors."""

    def clock(self) -> float:
        """Seconds since the epoch by this node's clock."""
        return time.time()

    def versions(self) -> dict[str, str | None]:
        return {name: installed_version(name) for name in MUST_AGREE}

    def look(self, run_dir: Path, run_bytes: int, store_bytes: int) -> list[Finding]:
        """Versions, GPUs, shared memory and storage of this node."""
        return [
            own_versions(),
            gpus(),
            check_shared_memory(Path("/dev/shm"), store_bytes),
            check_storage(run_dir, run_bytes),
        ]

    def reads(self, path: Path, content: str) -> bool:
        """Whether `path` holds `content` here."""
        return path.is_file() and path.read_text() == content

    def open_store(self, ranks: int) -> tuple[str, int]:
        """Host and port of a store where `ranks` ranks meet."""
        self.store = dist.TCPStore(ray.util.get_node_ip_address(), 0, ranks, is_master=True, wait_for_workers=False)
        return self.store.host, self.store.port

    def bandwidth(self, rank: int, meeting: tuple[str, int], deadline_s: float) -> float:
        """Bytes a second of an all-gather between two ranks, the best of a few rounds."""
        timeout, first = timedelta(seconds=deadline_s), rank == 0
        store = self.store if first else dist.TCPStore(*meeting, 2, is_master=False, timeout=timeout)
        group: Any = dist.ProcessGroupGloo(store, rank, 2, timeout)
        data = torch.full((MESSAGE_BYTES // 4,), float(rank))
        seen = [torch.empty_like(data) for _ in range(2)]
        best = float("inf")
        for _ in range(ROUNDS + 1):  # the first one opens the connections
            started = time.monotonic()
            group.allgather([seen], [data]).wait()
            best = min(best, time.monotonic() - started)
        if any(bool((part != rank).any()) for rank, part in enumerate(seen)):
            raise ValueError("the other node's bytes came wrong: look at the memory and the network cards of both")
        return MESSAGE_BYTES / best


def gpus() -> Finding:
    """The GPUs of this machine as the driver and torch see them."""
    listing = listed_gpus()
    driver = check_driver(listing)
    if not driver.ok:
        return driver
    # torch's count alone comes from the driver's library, whether CUDA can use them or not.
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [gpu.name for gpu in listing.gpus]
    return check_gpus(len(names), usable, names, torch.version.cuda, listing.driver or None)
