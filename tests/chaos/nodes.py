"""A Ray of three nodes on this machine, each with a network of its own: its processes can be found, frozen and killed,
its cable pulled. The head runs drivers alone, as in a cluster that is meant to last: all work is on the other two.
Needs root, for the networks (Linux network namespaces joined by a bridge)."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

NODES, CPUS = 3, 2
BRIDGE, NETWORK, PORT, DASHBOARD_PORT = "ilm-chaos", "10.77.0", 6379, 8265
HERE = f"{NETWORK}.254"  # this process, as nodes see it
START_S = 120.0
# Ray's own processes beside the workers, those that look after others, and actors by which Ray Data and Ray Train keep
# their books; a node does not outlive its agents.
OVERHEAD = (
    *("IDLE", "Agent", "DashboardAgent", "RuntimeEnv", "Warden"),
    *("_AutoscalingCoordinatorActor", "_StatsActor", "DatasetManager"),
    *("PreemptionWatcher", "SynchronizationActor"),
)


_DRAIN = """
import subprocess, sys
from pathlib import Path
import ray
host, seconds = sys.argv[1:]
ray.init("auto", log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == host]
ray_script = str(Path(sys.executable).with_name("ray"))
words = ["--node-id", *nodes[:1], "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot notice"]
sys.exit(not nodes or subprocess.call([ray_script, "drain-node", *words, "--deadline-remaining-seconds", seconds]))
"""


@dataclass(frozen=True)
class Node:
    """number: 0 is the head. ray: `ray start --block`, above all of the node's processes; log: what it says."""

    number: int
    ray: subprocess.Popen[bytes]
    log: Path

    @property
    def space(self) -> str:
        """The network namespace."""
        return f"{BRIDGE}-{self.number}"

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.ray.pid)
            return [top, *top.children(recursive=True)]
        return []


class Nodes:
    """`with Nodes(REPOSITORY, logs) as nodes`: up, renewed where a fault has left less than three, and down.

    logs: folder of what `ray start` says on each node.
    """

    def __init__(self, repository: Path, logs: Path, dashboard: bool = False) -> None:
        """dashboard: takes jobs, at `url`."""
        self._logs, self._nodes, self._number, self._dashboard = logs, dict[int, Node](), 0, dashboard
        self.env = {
            **os.environ,
            "PYTHONPATH": str(repository),  # of the workers too
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_TRAIN_V2_ENABLED": "1",
        }

    def __enter__(self) -> "Nodes":
        if os.geteuid() != 0:
            raise PermissionError("nodes with networks of their own need root")
        self._logs.mkdir(parents=True, exist_ok=True)
        _remove_networks()  # of a table that was cut off
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        self.renew()
        return self

    def __exit__(self, *exc: object) -> None:
        self._down()
        _remove_networks()
        for folder in Path("/tmp").glob(f"{BRIDGE}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"{NETWORK}.1:{PORT}"

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return f"http://{NETWORK}.1:{DASHBOARD_PORT}"

    def renew(self, **env: str) -> None:
        """Another cluster, its processes with `env` beside the usual: what a fault has left of the old one is ended."""
        self._down()
        _await(self._start(self.env | env))
        for node in [self._start(self.env | env) for _ in range(NODES - 1)]:
            _await(node)

    def add(self) -> None:
        _await(self._start(self.env))

    def start(self, command: Sequence[str], env: dict[str, str], stderr: IO[str]) -> subprocess.Popen[str]:
        """A process on the head."""
        return subprocess.Popen(
            [*_inside(self._nodes[0].space), *command],
            env=self.env | env | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def others(self) -> list[int]:
        """Numbers of the nodes that are not the head."""
        return sorted(self._nodes.keys() - {0})

    def lose(self, number: int) -> None:
        """End a node as a power cut would."""
        _end(self._nodes.pop(number).processes())

    def drain(self, number: int, seconds: int) -> bool:
        """Tell Ray that a node will go in so many seconds, as a spot notice does; False where Ray does not know it."""
        words = [sys.executable, "-c", _DRAIN, f"{NETWORK}.{number + 1}", str(seconds)]
        done = self.start(words, {}, sys.stderr)
        return done.wait(timeout=60) == 0

    def cut(self, number: int, whole: bool = False) -> None:
        """Pull the cable of a node; whole: plug it in again."""
        _ip("link", "set", _cable(number), "up" if whole else "down")

    def on(self, number: int) -> list[psutil.Process]:
        """All processes of a node."""
        return self._nodes[number].processes()

    def head(self) -> psutil.Process:
        """The process that knows what the cluster consists of."""
        (process,) = (p for p in self.on(0) if "gcs_server" in _title(p).split(" ")[0])
        return process

    def workers(self) -> list[psutil.Process]:
        """Processes that run a task or an actor."""
        return [p for number in self._nodes for p in self.on(number) if _works(p)]

    def busy(self) -> list[int]:
        """Those of `others` that run a task or an actor."""
        return [number for number in self.others() if any(map(_works, self.on(number)))]

    def _start(self, env: dict[str, str]) -> Node:
        number, self._number = self._number, self._number + 1  # that of a lost node stays taken, as is its network
        space, cable, log = f"{BRIDGE}-{number}", _cable(number), self._logs / f"node-{number}.log"
        _ip("netns", "add", space)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", cable, "master", BRIDGE, "up")
        _ip("-n", space, "address", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")
        _ip("-n", space, "route", "add", "default", "dev", "eth0")  # by which Ray finds a node's own address
        head = ["--head", f"--port={PORT}", f"--include-dashboard={str(self._dashboard).lower()}"]
        head += [f"--dashboard-host={NETWORK}.1", f"--dashboard-port={DASHBOARD_PORT}"]
        temporary = Path(f"/tmp/{space}")
        shutil.rmtree(temporary, ignore_errors=True)
        role = [f"--address={self.address}"] if number else head
        command = [
            *(*_inside(space), str(Path(sys.executable).with_name("ray")), "start", *role, "--block"),
            *(
                f"--node-ip-address={NETWORK}.{number + 1}",
                f"--num-cpus={CPUS if number else 0}",
                "--disable-usage-stats",
            ),
            f"--object-store-memory={200 * 2**20}",
            f"--temp-dir={temporary}",  # in one that it shared, a node would remove what another one unpacked
        ]
        with log.open("wb") as out:
            ray = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        self._nodes[number] = Node(number, ray, log)
        return self._nodes[number]

    def _down(self) -> None:
        _end([p for number in self._nodes for p in self.on(number)])
        for number in self._nodes:
            self._nodes[number].ray.wait()
        self._nodes, self._number = {}, 0
        _remove_networks(keep_bridge=True)


def _await(node: Node) -> None:
    """Until it has joined the cluster."""
    until = time.monotonic() + START_S
    while "Ray runtime started" not in node.log.read_text(encoding="utf-8"):
        if node.ray.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"node {node.number} did not start: see {node.log}")
        time.sleep(0.1)


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    """To those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _end(processes: list[psutil.Process]) -> None:
    signal_all(processes, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


def _works(process: psutil.Process) -> bool:
    title = _title(process)
    return title.startswith("ray::") and not any(word in title for word in OVERHEAD)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def _cable(number: int) -> str:
    return f"{BRIDGE}{number}"


def _inside(space: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{space}"]


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _remove_networks(keep_bridge: bool = False) -> None:
    for link in _json("link", "show"):  # a cable goes with its namespace too, but later
        if link["ifname"].startswith(BRIDGE) and not (keep_bridge and link["ifname"] == BRIDGE):
            _ip("link", "delete", link["ifname"])
    for entry in _json("netns", "list"):
        if entry["name"].startswith(f"{BRIDGE}-"):
            _ip("netns", "delete", entry["name"])


def _json(*words: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(_ip("-json", *words) or "[]")
    return [entry for entry in entries if entry]
