"""The values of all cluster files, in one place: `python -m cluster.manifests` writes the files from them."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from ilm_ray.config import Config
from ilm_ray.config.fit import gpus_needed

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _pinned(pattern: str) -> str:
    match = re.search(pattern, PROJECT, re.M)
    assert match is not None, f"pyproject.toml has nothing like {pattern}"
    return match[1]


VERSION = _pinned(r'^version = "(.+)"')
RAY_VERSION = _pinned(r'"ray\[[a-z,]+\]==([\d.]+)"')
IMAGE = f"ilm-ray:{VERSION}"
HOME = "/opt/ilm_ray"  # of the repository, in the image and on machines
RUNS = "/runs"  # on storage that every node mounts: shards, checkpoints, results
CLAIM = "ilm-runs"  # the ReadWriteMany claim behind RUNS
METRICS_PORT = 8080
STOP_S = 180  # between `ray job stop` and the end by force: time for a checkpoint
HOURS = 24  # a job that has not ended by then is ended
# The environment of every Ray, and so of every job of it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "NCCL_DEBUG": "WARN",  # its errors name the peer and the interface; without GPUs nobody reads it
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
}


# Size of a GPU node's /dev/shm. NVIDIA advises containers to have 1 GiB for NCCL; nodes of 8 GPUs get more.
NCCL_SHM_GIB = 4


@dataclass(frozen=True)
class Fabric:
    """The network between GPU nodes, which only its owner knows. Without any of it NCCL takes TCP over the pod network,
    a tenth or less of the speed that `jobs/plan.py` assumes.

    rdma: resource that the cluster's device plugin offers for its RDMA adapters (`rdma/ib`, `vpc.amazonaws.com/efa`),
    and how many of it a GPU node has; host_network: pods use the node's own interfaces; nccl: NCCL_* variables, such as
    NCCL_SOCKET_IFNAME and NCCL_IB_HCA.
    """

    rdma: tuple[str, int] | None = None
    host_network: bool = False
    nccl: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeKind:
    """A kind of node. ray_cpus: CPUs that it offers to Ray, maybe not all; shm_gib: size of /dev/shm."""

    role: str
    cpus: int
    memory_gib: int
    shm_gib: int
    gpus: int
    ray_cpus: int

    @property
    def store_gib(self) -> int:
        """Size of the object store. Ray would take nearly all of /dev/shm, and NCCL's ranks talk through it too."""
        return self.shm_gib - (NCCL_SHM_GIB if self.gpus else 1)


# The head runs drivers and Ray's own services: no work of a stage goes there.
HEAD = NodeKind("head", cpus=8, memory_gib=32, shm_gib=8, gpus=0, ray_cpus=0)
DATA = NodeKind("data", cpus=16, memory_gib=64, shm_gib=16, gpus=0, ray_cpus=16)
# One CPU a GPU is offered: ranks of training find a place, and the data stages go to the data nodes.
GPU = NodeKind("gpu", cpus=64, memory_gib=512, shm_gib=64, gpus=8, ray_cpus=8)


@dataclass(frozen=True)
class Need:
    """Nodes of each kind for a preset. data_max: the data stages use as many as there are, up to this."""

    data: int
    data_max: int
    gpu: int


def need_of(config: Config) -> Need:
    """GPU nodes for the larger of pre-training and PPO; nano needs none."""
    if config.preset == "nano":
        return Need(data=2, data_max=2, gpu=0)
    return Need(data=4, data_max=32, gpu=math.ceil(max(gpus_needed(config)) / GPU.gpus))
