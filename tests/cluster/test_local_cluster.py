"""The local cluster: up, a job whose metric appears, down without a trace."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.clusters import LocalCluster, local_cluster, script

JOB = """\
import time
import ray
from ilm_ray.run import metrics

@ray.remote
class Worker:
    def work(self):
        metrics.counter(metrics.DOCUMENTS).inc(7, tags={"stage": "cluster_test", "outcome": "kept"})

if __name__ == "__main__":
    ray.init(logging_level="warning")
    worker = Worker.remote()
    ray.get(worker.work.remote())
    time.sleep(4)
    print("the job is done")
"""


def processes_of(folder: str) -> list[str]:
    """Command lines of all living processes that name the cluster's folder, found without the script's help."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if f"{folder}/" in line:
            lines.append(line)
    return lines


def listening(folder: str) -> set[tuple[str, int]]:
    """Addresses and ports on which the cluster's processes wait for connections. They are known by the token that all
    inherit; those that have renamed themselves no longer show it, but are children of others."""
    addresses = set[tuple[str, int]]()
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_AUTH_TOKEN_PATH") == f"{folder}/token":
                for member in (process, *process.children(recursive=True)):
                    rows = member.net_connections(kind="inet")
                    here = [row.laddr for row in rows if row.status == psutil.CONN_LISTEN]
                    addresses |= {
                        (address.ip.removeprefix("::ffff:"), address.port) for address in here
                    }  # IPv4 by gRPC
        except psutil.Error:  # ended meanwhile, or not ours
            continue
    return addresses


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(cpus=2) as up:
        yield up


@pytest.mark.slow
def test_up_submit_scrape_down(cluster: LocalCluster, tmp_path: Path) -> None:
    token, base = cluster.environment["RAY_AUTH_TOKEN_PATH"], cluster.base
    with pytest.raises(urllib.error.HTTPError, match="401"):  # nobody gets in without the token
        urllib.request.urlopen(f"http://127.0.0.1:{base + 1}/api/version", timeout=10)
    assert Path(token).stat().st_mode & 0o077 == 0
    assert script("up", "--name", cluster.name).returncode == 2  # up already
    assert script("status", "--name", cluster.name).stdout.splitlines()[1:] == cluster.printed.splitlines()

    (tmp_path / "tiny.py").write_text(JOB)
    done = cluster.ray("job", "submit", "--working-dir", str(tmp_path), "--", "python", "tiny.py")
    assert done.returncode == 0 and "the job is done" in done.stdout, done.stdout + done.stderr

    deadline, seen = time.monotonic() + 30, ""
    while time.monotonic() < deadline and not seen:
        with urllib.request.urlopen(f"http://127.0.0.1:{base + 2}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        seen = next((s for s in lines if s.startswith("ray_ilm_documents_total") and "cluster_test" in s), "")
        time.sleep(1)
    assert seen.endswith(" 7.0")

    ports = listening(str(cluster.folder))
    assert {port for _, port in ports} >= set(range(base, base + 8))
    assert {address for address, _ in ports} <= {"127.0.0.1", "::1"}  # no other machine reaches any of them

    assert processes_of(str(cluster.folder))
    assert script("down", "--name", cluster.name).returncode == 0
    assert processes_of(str(cluster.folder)) == []
    assert listening(str(cluster.folder)) == set()
    assert script("status", "--name", cluster.name).returncode == 1
