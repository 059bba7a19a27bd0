"""A cluster of `cluster/local.sh` for a test, and jobs submitted to it."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "local.sh"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class LocalCluster:
    """name, folder and first port as the script has them; printed: what `up` printed."""

    name: str
    folder: Path
    base: int
    printed: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a shell after the exports that `up` prints."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return clean | dict(re.findall(r"(RAY_\w+)=(\S+)", self.printed))

    def ray(self, *arguments: str, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
        """Run `ray ...` in that shell."""
        return subprocess.run(
            [str(BIN / "ray"), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
            cwd=ROOT,
        )


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_metrics_report_interval_ms"] = "1000"
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def free_port_base() -> int:
    for base in range(21000, 32000, 100):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", base + i)) for i in range(9)):
                return base
    pytest.skip("no nine free ports in a row from 21000 to 32000: end what listens there")


@contextmanager
def local_cluster(cpus: int) -> Iterator[LocalCluster]:
    """Up, and down again whatever happens."""
    name, base = f"t{os.getpid()}", free_port_base()
    folder = Path(f"/tmp/ray-{name}")
    try:
        done = script("up", "--name", name, "--port-base", str(base), "--cpus", str(cpus), "--ray", str(BIN / "ray"))
        assert done.returncode == 0, done.stderr
        yield LocalCluster(name, folder, base, done.stdout)
    finally:
        assert script("down", "--name", name).returncode == 0
        shutil.rmtree(folder, ignore_errors=True)
