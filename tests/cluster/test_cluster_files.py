"""Our files meet the rules of KubeRay, Ray, Slurm and Prometheus; the cluster script refuses wrong arguments."""

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.manifests import COMMITTED, FOLDER, files, main, shared
from cluster.values import ENVIRONMENT, GPU, NCCL_SHM_GIB, Fabric, need_of
from ilm_ray.config import load_config
from ilm_ray.config.load import PRESETS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PLAIN = Fabric()
INFINIBAND = Fabric(("rdma/ib", 8), host_network=True, nccl={"NCCL_IB_HCA": "mlx5"})


def manifest(preset: str, name: str, fabric: Fabric = PLAIN) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files(preset, fabric)[name])
    return content


def groups(preset: str, fabric: Fabric = PLAIN) -> list[dict[str, Any]]:
    spec = manifest(preset, "raycluster.yaml", fabric)["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("preset", COMMITTED)
def test_committed_manifests_are_what_the_command_writes(preset: str) -> None:
    folder = ROOT / FOLDER / preset
    assert {p.name for p in folder.iterdir()} == files(preset, PLAIN).keys()
    for name, text in files(preset, PLAIN).items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run `python -m cluster.manifests`"


def test_committed_files_of_all_presets_are_what_the_command_writes() -> None:
    for name, text in shared().items():
        assert (CLUSTER / name).read_text(encoding="utf-8") == text, "run `python -m cluster.manifests`"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
@pytest.mark.parametrize("fabric", [PLAIN, INFINIBAND], ids=["plain", "infiniband"])
def test_manifests_fit_kuberay_s_schema(preset: str, name: str, fabric: Fabric) -> None:
    schemas = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
    made = manifest(preset, name, fabric)
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
    for group in by_role.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if preset != "nano":
        limits = by_role["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert by_role["gpu"]["replicas"] * int(limits["nvidia.com/gpu"]) >= config.training.workers
        assert by_role["gpu"]["rayStartParams"]["num-cpus"] == limits["nvidia.com/gpu"]  # data tasks go elsewhere


def test_gpu_nodes_hold_every_rank_of_ppo() -> None:
    assert need_of(load_config("1_8b")).gpu == 4  # for its 32 ranks, with 8 workers of pre-training
    assert need_of(load_config("1_8b", None, ["ppo.colocate=true"])).gpu == 1


def test_rayjob_runs_our_code_on_the_installed_ray() -> None:
    job = manifest("nano", "rayjob.yaml")
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "python" and (ROOT / words[1]).is_file()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")


@pytest.mark.parametrize("preset", PRESETS)
def test_pods_are_confined_and_their_memory_is_promised(preset: str) -> None:
    pods = [group["template"]["spec"] for fabric in (PLAIN, INFINIBAND) for group in groups(preset, fabric)]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_rdma_and_the_node_s_network_go_to_gpu_pods_alone() -> None:
    plain, fast = (
        {group.get("groupName", "head"): group["template"]["spec"] for group in groups("7b", fabric)}
        for fabric in (PLAIN, INFINIBAND)
    )
    assert plain.keys() == fast.keys() == {"head", "data", "gpu"}
    assert all(plain[role] == fast[role] for role in ("head", "data"))
    (container,) = fast["gpu"]["containers"]
    assert container["resources"]["limits"]["rdma/ib"] == "8"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert fast["gpu"]["hostNetwork"] is True and fast["gpu"]["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert {"name": "NCCL_IB_HCA", "value": "mlx5"} in container["env"]
    (container,) = plain["gpu"]["containers"]
    assert "hostNetwork" not in plain["gpu"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["limits"]) == {"cpu", "memory", "nvidia.com/gpu"}
    for name in ("slurm.sh", "ray_up.yaml"):
        assert "NCCL_IB_HCA=mlx5" in files("7b", INFINIBAND)[name] and "NCCL_IB_HCA" not in files("7b", PLAIN)[name]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_object_store_leaves_shared_memory_to_nccl(preset: str) -> None:
    for group in groups(preset):
        (volume,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
        room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        left = room - int(group["rayStartParams"]["object-store-memory"])
        assert left >= (NCCL_SHM_GIB if group.get("groupName") == "gpu" else 1) * 2**30


def test_the_command_takes_the_network_and_refuses_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rdma", "rdma/ib=8", "--host-network", "--nccl", "NCCL_IB_HCA=mlx5"]
    main(["--preset", "7b", "--out", str(tmp_path), *words])
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files("7b", INFINIBAND)
    for wrong in (["--rdma", "rdma/ib=none"], ["--rdma", "rdma/ib"], ["--nccl", "PATH=/x"], ["--rdma", "rdma/ib=0"]):
        with pytest.raises(SystemExit):
            main(["--preset", "7b", "--out", str(tmp_path), *wrong])
    with pytest.raises(SystemExit):  # the committed manifests are for any cluster
        main(["--host-network"])
    assert "--rdma" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("preset", PRESETS)
def test_the_slurm_script_is_complete(preset: str, tmp_path: Path) -> None:
    text = files(preset, PLAIN)["slurm.sh"]
    assert not re.search(r"@[A-Z_]+@", text)  # nothing is left to be filled in
    assert ("--gpus-per-node" in text) == (preset != "nano")
    started = re.findall(r"ray start .*&", text.replace("\\\n", ""))
    assert [f"--num-cpus={GPU.gpus} " in command for command in started] == [preset != "nano"] * 2
    script = tmp_path / "slurm.sh"
    script.write_text(text)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_ray_has_the_same_environment(preset: str) -> None:
    for group in groups(preset):
        (container,) = group["template"]["spec"]["containers"]
        assert {row["name"]: row["value"] for row in container["env"]} == ENVIRONMENT
    words = {f"{name}={value}" for name, value in ENVIRONMENT.items()}
    made = manifest(preset, "ray_up.yaml")
    for command in made["head_start_ray_commands"] + made["worker_start_ray_commands"]:
        assert words <= set(command.partition("export ")[2].partition(" &&")[0].split())
    (exports,) = re.findall(r"^export PATH=.*", files(preset, PLAIN)["slurm.sh"], re.M)
    assert words <= set(exports.split())


@pytest.mark.process
def test_the_script_s_ray_has_it_too_unless_the_shell_has_another() -> None:
    def read(shell: dict[str, str]) -> dict[str, str]:
        command = ["bash", "-c", f". {CLUSTER}/environment.sh && env"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=shell)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    patient = {"RAY_JOB_STOP_WAIT_TIME_S": "7"}
    assert read({}).items() >= ENVIRONMENT.items()
    assert read(patient).items() >= (ENVIRONMENT | patient).items()
    assert "environment.sh" in (CLUSTER / "local.sh").read_text()


def test_what_git_ignores_goes_nowhere(tmp_path: Path) -> None:
    """Neither with a job, nor to machines, nor into the image. Ray's own reader reads all three."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    of_git = (ROOT / ".gitignore").read_text()
    docker = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = {
        "a job": of_git + (ROOT / ".rayignore").read_text(),
        "machines": "\n".join(manifest("7b", "ray_up.yaml")["rsync_exclude"]),
        # Docker looks for a pattern at the top alone, as git does where a slash leads.
        "the image": "\n".join(line if line.startswith("#") else f"/{line.lstrip('/')}" for line in docker),
    }
    folders = {name.replace("*", "any") for name in re.findall(r"^/?([^/#\n]+)/$", of_git, re.M)}
    assert folders >= {".venv", ".venv-eval", "site", "runs", "__pycache__"}
    stay = {
        "ilm_ray/data/web/clean/rules.py",
        "jobs/pipeline.py",
        "Makefile",
        "requirements-cpu.lock",
        "requirements-gpu.lock",
    }
    names = stay | {f"{name}/file" for name in folders | {".git", "ilm_ray/data/web/__pycache__"}}
    for whither, rule in rules.items():
        (tmp_path / ".rayignore").write_text(rule)
        (leaves_out,) = get_excludes_from_ignore_files(tmp_path, include_gitignore=False)
        assert {name for name in names if not leaves_out(tmp_path / name)} == stay, whither


def test_the_readme_says_how_many_nodes_each_preset_wants() -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+)(?: to (\d+))? \| (\d+) \|$", (CLUSTER / "README.md").read_text(), re.M)
    stated = {preset: (int(data), int(most or data), int(gpu)) for preset, data, most, gpu in rows}
    needs = {preset: need_of(load_config(preset)) for preset in PRESETS}
    assert stated == {preset: (need.data, need.data_max, need.gpu) for preset, need in needs.items()}


def test_the_dockerfile_s_steps_are_the_makefile_s() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    steps = re.findall(r"^RUN make (\w+)", text, re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert steps == ["setup"] and all(re.search(rf"^{step}:", makefile, re.M) for step in steps)
    assert "pip install" not in text


def test_both_images_are_one_python_and_differ_by_the_lock_alone() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.M) == ["python:3.11-slim-bookworm"]
    assert re.findall(r".*VARIANT.*", re.sub(r"^#.*$", "", text, flags=re.M)) == [
        "ARG VARIANT=cpu",
        'RUN make setup GPU="$(test "$VARIANT" = cpu || echo 1)"',
    ]
    # Without it the container toolkit hands in nvidia-smi and no CUDA.
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    jobs = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())["scrape_configs"]
    files = [f for job in jobs for part in job["file_sd_configs"] for f in part["files"]]
    assert files and all(Path(f).name == PROMETHEUS_SERVICE_DISCOVERY_FILE for f in files)
    script = (CLUSTER / "local.sh").read_text()
    name = re.search(r"^name=(\S+)", script, re.M)
    assert name is not None and any(f"/tmp/ray-{name[1]}/" in f for f in files)


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [[], ["sideways"], ["up", "--name", "../x"], ["up", "--name", "a b"], ["up", "--port-base", "10500"],
     ["up", "--port-base", "x"], ["up", "--name"], ["up", "--what", "1"], ["up", "--ray", "/nowhere/ray"]],
)  # fmt: skip
def test_the_script_refuses_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run(["bash", str(CLUSTER / "local.sh"), *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("local.sh: ") and len(done.stderr.splitlines()) == 1
