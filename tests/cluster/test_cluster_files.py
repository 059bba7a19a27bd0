"""What KubeRay and Prometheus require of our files, and what the cluster script refuses."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def rayjob() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())
    return found


def pods() -> list[dict[str, Any]]:
    spec = rayjob()["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_rayjob_has_what_kuberay_requires() -> None:
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])  # KubeRay adds a suffix
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_rayjob_runs_our_code_on_our_ray() -> None:
    job = rayjob()
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "python" and (ROOT / words[1]).is_file()
    pinned = re.search(r'"ray\[[a-z,]+\]==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None and job["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None and all(p["containers"][0]["image"].endswith(f":{version[1]}") for p in pods())


def test_pods_are_confined_and_their_memory_is_promised() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    jobs = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())["scrape_configs"]
    files = [f for job in jobs for part in job["file_sd_configs"] for f in part["files"]]
    assert files and all(Path(f).name == PROMETHEUS_SERVICE_DISCOVERY_FILE for f in files)
    script = (CLUSTER / "local.sh").read_text()
    name = re.search(r"^name=(\S+)", script, re.M)
    assert name is not None and any(f"/tmp/ray-{name[1]}/" in f for f in files)


@pytest.mark.parametrize(
    "arguments",
    [[], ["sideways"], ["up", "--name", "../x"], ["up", "--name", "a b"], ["up", "--port-base", "10500"],
     ["up", "--port-base", "x"], ["up", "--name"], ["up", "--what", "1"], ["up", "--ray", "/nowhere/ray"]],
)  # fmt: skip
def test_the_script_refuses_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run(["bash", str(CLUSTER / "local.sh"), *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("local.sh: ") and len(done.stderr.splitlines()) == 1
