"""What KubeRay, Ray, Slurm and Prometheus require of our files, and what the cluster script refuses."""

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.manifests import COMMITTED, FOLDER, files
from cluster.values import LABEL, need_of
from ilm_ray.config import load_config
from ilm_ray.config.load import PRESETS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def manifest(preset: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(files(preset)[name])
    return found


def groups(preset: str) -> list[dict[str, Any]]:
    spec = manifest(preset, "raycluster.yaml")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("preset", COMMITTED)
def test_committed_manifests_are_what_the_command_writes(preset: str) -> None:
    folder = ROOT / FOLDER / preset
    assert {p.name for p in folder.iterdir()} == files(preset).keys()
    for name, text in files(preset).items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run `python -m cluster.manifests`"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_manifests_fit_kuberay_s_schema(preset: str, name: str) -> None:
    schemas = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
    made = manifest(preset, name)
    jsonschema.Draft7Validator(schemas[made["kind"]]).validate(made)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", made["metadata"]["name"])  # KubeRay adds a suffix
    made["spec"]["rayVerson" if made["kind"] == "RayCluster" else "entryPoint"] = "misspelt"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schemas[made["kind"]]).validate(made)


@pytest.mark.parametrize("preset", PRESETS)
def test_ray_up_file_fits_ray_s_schema(preset: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    made = manifest(preset, "ray_up.yaml")
    validate_config(prepare_config(made))
    need = need_of(load_config(preset))
    assert len(made["provider"]["worker_ips"]) == made["max_workers"] == need.data + need.gpu


@pytest.mark.parametrize("preset", PRESETS)
def test_gpu_nodes_hold_every_rank_of_pretraining(preset: str) -> None:
    config, by_role = load_config(preset), {group["groupName"]: group for group in groups(preset)[1:]}
    assert set(by_role) == ({"data"} if preset == "nano" else {"data", "gpu"})
    for role, group in by_role.items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["labels"][LABEL] == group["template"]["metadata"]["labels"][LABEL] == role
    if preset != "nano":
        limits = by_role["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert by_role["gpu"]["replicas"] * int(limits["nvidia.com/gpu"]) >= config.pretrain.workers


def test_rayjob_runs_our_code_on_the_installed_ray() -> None:
    job = manifest("nano", "rayjob.yaml")
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "python" and (ROOT / words[1]).is_file()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")


@pytest.mark.parametrize("preset", PRESETS)
def test_pods_are_confined_and_their_memory_is_promised(preset: str) -> None:
    for pod in (group["template"]["spec"] for group in groups(preset)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_slurm_script_is_complete(preset: str, tmp_path: Path) -> None:
    text = files(preset)["slurm.sh"]
    assert not re.search(r"@[A-Z_]+@", text)  # nothing is left to be filled in
    assert ("--gpus-per-node" in text) == (preset != "nano")
    script = tmp_path / "slurm.sh"
    script.write_text(text)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)


def test_the_dockerfile_s_steps_are_the_makefile_s() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    steps = re.findall(r"^RUN make (\w+)", text, re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert steps == ["setup"] and all(re.search(rf"^{step}:", makefile, re.M) for step in steps)
    assert "pip install" not in text


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
