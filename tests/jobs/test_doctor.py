"""The doctor finds what is really wrong: each fault is made, not pretended."""

import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.probe import Probe
from ilm_ray.config import load_config
from ilm_ray.run import doctor
from ilm_ray.run.doctor import MAX_SKEW_S, WRITTEN_BYTES, Finding
from jobs.doctor import examine_cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for half of what the storage check writes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={WRITTEN_BYTES // 2}", "ilm-ray-test", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root: run as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.process
def test_a_full_disk(small_disk: Path) -> None:
    check = doctor.check_storage(small_disk / "runs" / "new", 0)
    assert "No space left" in check.observation and check.todo
    assert list(small_disk.iterdir()) == []  # what was half-written is gone


@pytest.mark.process
def test_a_full_shared_memory(small_disk: Path) -> None:
    assert not doctor.check_shared_memory(small_disk, WRITTEN_BYTES).ok
    assert doctor.check_shared_memory(small_disk, WRITTEN_BYTES // 4).ok
    assert doctor.check_shared_memory(small_disk, WRITTEN_BYTES // 4, started=False).ok
    (small_disk / "taken").write_bytes(bytes(WRITTEN_BYTES * 3 // 8))
    assert doctor.check_shared_memory(small_disk, WRITTEN_BYTES // 4).ok  # by the store itself, as far as one knows
    assert not doctor.check_shared_memory(small_disk, WRITTEN_BYTES // 4, started=False).ok


@pytest.mark.parametrize("folder", ["/proc/runs", "/sys/runs"])
def test_a_folder_that_nobody_may_write_to(folder: str) -> None:
    check = doctor.check_storage(Path(folder), 0)
    assert not check.ok and "\n" not in check.line()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert not doctor.check_storage(tmp_path / "runs" / "one", 0).ok
    assert not doctor.check_storage(tmp_path / "runs", 0).ok


def test_sound_storage_is_left_as_it_was(tmp_path: Path) -> None:
    assert doctor.check_storage(tmp_path / "runs" / "one", 0).ok
    assert list(tmp_path.iterdir()) == []
    assert "may need" in doctor.check_storage(tmp_path, 2**60).observation


def test_a_busy_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        check = doctor.check_ports(port, 1)
        assert not check.ok and str(port) in check.observation
    assert doctor.check_ports(port, 1).ok


def test_versions_that_do_not_match() -> None:
    numpy, packaging = importlib.metadata.version("numpy"), importlib.metadata.version("packaging")
    wrong = doctor.check_versions(
        ["numpy<1", "no-such-package>=1", f"packaging=={packaging}", 'torch<1; extra == "x"'],
        doctor.installed_version,
        "3.10.2",
        ">=3.11,<3.12",
    )
    parts = {"Python 3.10.2 (want >=3.11,<3.12)", f"numpy {numpy} (want <1)", "no-such-package is missing"}
    assert all(part in wrong.observation for part in parts)
    assert not wrong.ok and "torch" not in wrong.observation
    assert doctor.own_versions().ok  # the environment that the tests run in


def test_nodes_with_different_versions() -> None:
    check = doctor.same_versions({"a": {"torch": "2.13.0", "ray": "2"}, "b": {"torch": "2.12.0", "ray": "2"}})
    assert not check.ok and "torch (a: 2.13.0, b: 2.12.0)" in check.observation and "ray" not in check.observation
    assert not doctor.same_versions({"a": {"torch": "2"}, "b": {"torch": None}}).ok


@pytest.mark.parametrize("ahead", [-5.0, -0.2, 0.0, 0.2, 5.0])
@pytest.mark.parametrize(("there", "back"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_clock_skew_is_right_whatever_the_way_takes(ahead: float, there: float, back: float) -> None:
    """An answer may be slow in either direction: the bound must hold the truth."""
    before = 1000.0
    skew, error = doctor.skew_of(before, before + there + ahead, before + there + back)
    assert abs(skew - ahead) <= error + 1e-9
    assert doctor.check_clocks({"node": (skew, error)}).ok == (abs(ahead) < MAX_SKEW_S)


def test_gpus_that_torch_cannot_use() -> None:
    assert doctor.check_gpus(0, 0, [], None, None).ok
    assert "built for CPUs" in doctor.check_gpus(8, 0, ["H100"], None, "550").todo
    assert "driver" in doctor.check_gpus(8, 7, ["H100"], "12.9", "550").todo
    assert doctor.check_gpus(8, 8, ["H100"], "12.9", "550").ok


def test_a_folder_of_one_node_alone() -> None:
    assert not doctor.check_seen_by_all(Path("/runs"), {"a": True, "b": False}).ok


def test_a_cluster_from_inside(local_ray: None, tmp_path: Path) -> None:
    checks = {check.name.split(" on ")[0].split(" /")[0]: check for check in examine_cluster(load_config(), tmp_path)}
    wanted = {"versions", "GPU", "shared memory", "storage", "same versions", "object store", "clocks", "shared"}
    assert set(checks) == wanted | {"gloo bandwidth", "room"}
    assert [check.line() for check in checks.values() if not check.ok] == []
    assert list(tmp_path.iterdir()) == []
    checks = {check.name: check for check in examine_cluster(load_config("20b"), tmp_path)}
    assert "20b" in checks["room"].observation and not checks["room"].ok


def test_a_store_that_is_larger_than_shared_memory(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster that others have started, too."""
    nodes = ray.nodes()
    for node in nodes:
        node["Resources"]["object_store_memory"] = 2.0**60
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    wrong = [check for check in examine_cluster(load_config(), tmp_path) if not check.ok]
    assert [check.name.split(" on ")[0] for check in wrong] == ["shared memory"]


def _wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: type) -> dict[str, Finding]:
    """What is wrong where the probes are of a class like this; that all other checks were made is seen to."""
    monkeypatch.setattr("actors.probe.Probe", sick)
    checks = {re.sub(r" \S+ \(\w+\)$", "", c.name): c for c in examine_cluster(load_config(), tmp_path)}  # no node
    assert checks["object store"].ok and checks["room"].ok
    assert all("\n" not in check.line() for check in checks.values())
    return {name: check for name, check in checks.items() if not check.ok}


def test_a_probe_that_dies(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Probe):
        def versions(self) -> dict[str, str | None]:
            os._exit(1)

    wrong = _wrong(tmp_path, monkeypatch, Dying)
    assert {name.split(" /")[0] for name in wrong} == {"same versions on", "clock of", "shared"}
    assert all("Actor" in check.observation and "logs" in check.todo for check in wrong.values())


def test_a_check_that_raises(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Raising(Probe):
        def look(self, run_dir: Path, run_bytes: int, store_bytes: int) -> list[Finding]:
            raise PermissionError("not for you\nbut for others")

    wrong = _wrong(tmp_path, monkeypatch, Raising)
    assert {name: check.observation for name, check in wrong.items()} == {"look at": "PermissionError: not for you"}


def test_a_node_that_does_not_answer_is_told_once(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Probe):
        def clock(self) -> float:
            time.sleep(600)
            return 0.0

    monkeypatch.setattr("jobs.doctor.DEADLINE_S", 2.0)
    wrong = _wrong(tmp_path, monkeypatch, Silent)
    assert {name: check.observation for name, check in wrong.items()} == {"node": "no answer within 2 s"}


@pytest.mark.slow
def test_two_nodes(tmp_path: Path) -> None:
    """In a process of its own, with two Ray nodes on this machine: the link between them is measured."""
    script = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ilm_ray.config import load_config
from jobs.doctor import examine_cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False)
for check in examine_cluster(load_config(), Path(sys.argv[1])):
    print(check.line())
ray.shutdown()
cluster.shutdown()
"""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("ok    versions on ") for line in lines) == 2
    assert any("2 node(s) agree" in line for line in lines) and any("seen by 2 node(s)" in line for line in lines)
    link = next(line for line in lines if "gloo bandwidth" in line)
    assert "MB/s" in link, link


@pytest.mark.slow
def test_the_command_names_all_that_is_wrong_and_exits_with_2(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "jobs/doctor.py", "--preset", "20b", "--run-dir", "/proc/run"]
        command += ["--port-base", str(port), "ray.object_store_mb=100"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, cwd=ROOT)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 2 and summary["status"] == "refused"
    assert {name.split(" ")[0] for name in summary["wrong"]} == {"data", "ports", "storage", "shared", "room"}
    assert len([line for line in done.stdout.splitlines() if line.startswith("WRONG")]) == len(summary["wrong"])
