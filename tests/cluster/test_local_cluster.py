"""The local cluster: up, a job whose metric appears, down without a trace."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "local.sh"
BIN = Path(sys.executable).parent
JOB = """\
import time
import ray
from ilm_ray.observe import metrics

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


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_metrics_report_interval_ms"] = "1000"
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def free_port_base() -> int:
    for base in range(21000, 32000, 100):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", base + i)) for i in range(8)):
                return base
    pytest.skip("no free ports")


def processes_of(folder: str) -> list[str]:
    """Command lines of all living processes that name the cluster's folder, found without the script's help."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if f"{folder}/" in line:
            found.append(line)
    return found


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    name, base = f"t{os.getpid()}", free_port_base()
    try:
        done = script("up", "--name", name, "--port-base", str(base), "--cpus", "2", "--ray", str(BIN / "ray"))
        assert done.returncode == 0, done.stderr
        yield {"name": name, "folder": f"/tmp/ray-{name}", "base": str(base), "told": done.stdout}
    finally:
        assert script("down", "--name", name).returncode == 0
        shutil.rmtree(f"/tmp/ray-{name}", ignore_errors=True)


@pytest.mark.slow
def test_up_submit_scrape_down(cluster: dict[str, str], tmp_path: Path) -> None:
    exports = dict(re.findall(r"(RAY_\w+)=(\S+)", cluster["told"]))
    base = int(cluster["base"])
    with pytest.raises(urllib.error.HTTPError, match="401"):  # nobody gets in without the token
        urllib.request.urlopen(f"http://127.0.0.1:{base + 1}/api/version", timeout=10)
    assert Path(exports["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o077 == 0
    assert script("up", "--name", cluster["name"]).returncode == 2  # up already
    assert script("status", "--name", cluster["name"]).stdout.splitlines()[1:] == cluster["told"].splitlines()

    (tmp_path / "tiny.py").write_text(JOB)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | exports
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(tmp_path), "--", "python", "tiny.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
    assert done.returncode == 0 and "the job is done" in done.stdout, done.stdout + done.stderr

    deadline, seen = time.monotonic() + 30, ""
    while time.monotonic() < deadline and not seen:
        with urllib.request.urlopen(f"http://127.0.0.1:{base + 2}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        seen = next((s for s in lines if s.startswith("ray_ilm_documents_total") and "cluster_test" in s), "")
        time.sleep(1)
    assert seen.endswith(" 7.0")

    assert processes_of(cluster["folder"])
    assert script("down", "--name", cluster["name"]).returncode == 0
    assert processes_of(cluster["folder"]) == []
    assert script("status", "--name", cluster["name"]).returncode == 1
