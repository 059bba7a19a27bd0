"""A Ray of three nodes on this machine, whose processes can be found, frozen and killed."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

NODES, CPUS = 3, 2
# Ray's own processes beside the workers; a node does not outlive its agents.
OVERHEAD = ("IDLE", "Agent", "DashboardAgent", "RuntimeEnv")


class Nodes:
    """`with Nodes(REPOSITORY) as nodes`: up, renewed where a fault has left less than three, and down."""

    def __init__(self, repository: Path) -> None:
        os.environ |= {
            "PYTHONPATH": str(repository),  # of the workers too
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "RAY_TRAIN_V2_ENABLED": "1",
        }
        self._cluster: Cluster | None = None

    def __enter__(self) -> "Nodes":
        self.renew()
        return self

    def __exit__(self, *exc: object) -> None:
        self._down()

    @property
    def address(self) -> str:
        assert self._cluster is not None
        return str(self._cluster.address)

    def renew(self) -> None:
        """Another cluster: what a fault has left of the old one is ended."""
        self._down()
        arguments = {"num_cpus": CPUS, "object_store_memory": 200 * 2**20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=arguments)
        for _ in range(NODES - 1):
            self.add()

    def add(self) -> None:
        assert self._cluster is not None
        self._cluster.add_node(num_cpus=CPUS, object_store_memory=200 * 2**20)

    def lose(self, number: int) -> None:
        """End a node (not the head) as a power cut would."""
        assert self._cluster is not None
        self._cluster.remove_node(sorted(self._cluster.worker_nodes, key=id)[number], allow_graceful=False)

    def raylet(self, number: int) -> psutil.Process:
        """Of a node that is not the head."""
        assert self._cluster is not None
        node = sorted(self._cluster.worker_nodes, key=id)[number]
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def head(self) -> psutil.Process:
        """The process that knows what the cluster consists of."""
        assert self._cluster is not None
        return psutil.Process(self._cluster.head_node.all_processes["gcs_server"][0].process.pid)

    def workers(self) -> list[psutil.Process]:
        """Processes that run a task or an actor."""
        return _children(lambda title: title.startswith("ray::") and not any(word in title for word in OVERHEAD))

    def _down(self) -> None:
        if self._cluster is None:
            return
        for process in _children(lambda title: True):  # a frozen one would not end
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._cluster.shutdown()
        left = _children(lambda title: "ray" in title)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=30)
        self._cluster = None


def _children(wanted: Callable[[str], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if wanted(" ".join(process.cmdline()).strip()):
                found.append(process)
    return found
