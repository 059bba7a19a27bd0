"""Write the files that bring a cluster up for a preset: `python -m cluster.manifests [--preset 7b --out DIR]`.

`raycluster.yaml`, `rayjob.yaml` (KubeRay 1.5.1 or later), `ray_up.yaml` (machines by SSH), `slurm.sh`. Their values are
those of `cluster/values.py`; the numbers of nodes follow from the preset; `--rdma`, `--host-network` and `--nccl` name
the network between the GPU nodes. Without arguments the committed ones of `cluster/manifests/` are written, and the
files that all presets share: `environment.sh`, `Dockerfile.dockerignore` in `cluster/`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.values import (
    CLAIM,
    DATA,
    ENVIRONMENT,
    GPU,
    HEAD,
    HOME,
    HOURS,
    IMAGE,
    METRICS_PORT,
    RAY_VERSION,
    ROOT,
    RUNS,
    VERSION,
    Fabric,
    Need,
    NodeKind,
    need_of,
)
from ilm_ray.config import load_config
from ilm_ray.config.load import PRESETS

COMMITTED = ("nano", "7b")
FOLDER = Path("cluster", "manifests")
WRITTEN = "Written by `python -m cluster.manifests`."
HEADS = {
    "raycluster.yaml": "A cluster for jobs that you submit: kubectl apply -f raycluster.yaml",
    "rayjob.yaml": "One run of the pipeline with a cluster of its own: kubectl apply -f rayjob.yaml",
    "ray_up.yaml": "Machines that SSH reaches: ray up ray_up.yaml. Yours: addresses, user, key.",
}
NAMES = {"app.kubernetes.io/name": "ilm-ray", "app.kubernetes.io/part-of": "ilm-ray"}
USER = 1000


def pod(node: NodeKind, fabric: Fabric) -> dict[str, Any]:
    """A pod template. Requests equal limits: a pod that is promised its memory is not the first to be killed for it."""
    resources: dict[str, Any] = {"cpu": str(node.cpus), "memory": f"{node.memory_gib}Gi"}
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    network: dict[str, Any] = {}
    environment = dict(ENVIRONMENT)
    if node.gpus:
        resources["nvidia.com/gpu"] = str(node.gpus)
        environment |= fabric.nccl
        if fabric.rdma is not None:
            resources[fabric.rdma[0]] = str(fabric.rdma[1])
            capabilities["add"] = ["IPC_LOCK"]  # an adapter reads and writes memory that must not be swapped
        if fabric.host_network:
            network = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    container = {
        "name": "ray",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": HOME,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": capabilities},
        "volumeMounts": [{"name": "runs", "mountPath": RUNS}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    return {
        "metadata": {
            "labels": dict(NAMES),
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(METRICS_PORT)},
        },
        "spec": {
            **network,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "runs", "persistentVolumeClaim": {"claimName": CLAIM}},
                # The object store, and what NCCL's ranks of a node share; it counts against the pod's memory.
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{node.shm_gib}Gi"}},
            ],
        },
    }


def start_params(node: NodeKind) -> dict[str, str]:
    params = {
        "metrics-export-port": str(METRICS_PORT),
        "num-cpus": str(node.ray_cpus),
        "object-store-memory": str(node.store_gib * 2**30),
    }
    if node is HEAD:
        params["dashboard-host"] = "0.0.0.0"  # the submitter is another pod; the token guards it
    return params


def cluster_spec(need: Need, fabric: Fabric) -> dict[str, Any]:
    """The spec of a RayCluster: head, data nodes, and GPU nodes where the preset wants them."""
    groups = [(DATA, need.data, need.data_max)] + ([(GPU, need.gpu, need.gpu)] if need.gpu else [])
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},  # KubeRay makes the token and hands it to every pod of the cluster
        "headGroupSpec": {
            "rayStartParams": start_params(HEAD),
            "template": pod(HEAD, fabric),
        },
        "workerGroupSpecs": [
            {
                "groupName": node.role,
                "replicas": count,
                "minReplicas": count,
                "maxReplicas": most,
                "rayStartParams": start_params(node),
                "template": pod(node, fabric),
            }
            for node, count, most in groups
        ],
    }


def raycluster(preset: str, need: Need, fabric: Fabric) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(preset, "cluster"),
        "spec": cluster_spec(need, fabric),
    }


def rayjob(preset: str, need: Need, fabric: Fabric) -> dict[str, Any]:
    """Stages are resumable, so a second attempt goes on where the first ended."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(preset, "pipeline"),
        "spec": {
            "entrypoint": f"python jobs/pipeline.py --preset {preset} --run-dir {RUNS}/{preset}",
            "submissionMode": "K8sJobMode",
            "backoffLimit": 2,
            "activeDeadlineSeconds": HOURS * 3600,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 3600,
            "rayClusterSpec": cluster_spec(need, fabric),
        },
    }


def ray_up(preset: str, need: Need, fabric: Fabric) -> dict[str, Any]:
    """Machines with Python 3.11, make and a C++ compiler, RUNS mounted on all. The addresses are examples."""
    exports = f"PATH={HOME}/.venv/bin:$PATH RAY_AUTH_MODE=token {_words(ENVIRONMENT | fabric.nccl)}"
    environment = f"cd {HOME} && export {exports}"
    workers = need.data + need.gpu
    return {
        "cluster_name": f"ilm-{_dashed(preset)}",
        "max_workers": workers,
        "provider": {
            "type": "local",
            "head_ip": "192.0.2.10",
            "worker_ips": [f"192.0.2.{11 + number}" for number in range(workers)],
        },
        "auth": {"ssh_user": "ray", "ssh_private_key": "~/.ssh/id_ed25519"},
        "file_mounts": {HOME: ".", "~/.ray/auth_token": "~/.ray/auth_token"},
        "rsync_exclude": left_out(),
        "setup_commands": ["chmod 600 ~/.ray/auth_token", f"cd {HOME} && make setup"],
        "head_start_ray_commands": [
            f"{environment} && ray stop",
            f"{environment} && ray start --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 "
            f"--metrics-export-port={METRICS_PORT} --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            f"{environment} && ray stop",
            f"{environment} && if command -v nvidia-smi > /dev/null; then cpus=$(nvidia-smi -L | wc -l); "
            f"else cpus=$(nproc); fi; ray start --address=$RAY_HEAD_IP:6379 --num-cpus=$cpus "
            f"--metrics-export-port={METRICS_PORT}",
        ],
    }


def slurm(preset: str, need: Need, fabric: Fabric) -> str:
    """One allocation of like nodes: with GPUs where the preset wants them. Its first node also is the head."""
    gpus = f"#SBATCH --gpus-per-node={GPU.gpus}\n" if need.gpu else ""
    cpus = f" --num-cpus={GPU.ray_cpus}" if need.gpu else ""
    text = (ROOT / "cluster" / "slurm.sh.in").read_text(encoding="utf-8")
    for name, value in {
        "PRESET": preset,
        "NODES": str(need.gpu or need.data),
        "GPUS": gpus,
        "CPUS": cpus,
        "HOURS": str(HOURS),
        "HOME": HOME,
        "RUNS": RUNS,
        "METRICS_PORT": str(METRICS_PORT),
        "ENVIRONMENT": _words(ENVIRONMENT | fabric.nccl),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def files(preset: str, fabric: Fabric) -> dict[str, str]:
    """Name -> text of the files of a preset."""
    need = need_of(load_config(preset))
    made = {
        "raycluster.yaml": raycluster(preset, need, fabric),
        "rayjob.yaml": rayjob(preset, need, fabric),
        "ray_up.yaml": ray_up(preset, need, fabric),
    }
    summary = f"Preset {preset}: {need.data} data node(s), {need.gpu} GPU node(s). {WRITTEN}"
    texts = {name: f"# {HEADS[name]}\n# {summary}\n" + _dump(value) for name, value in made.items()}
    return texts | {"slurm.sh": slurm(preset, need, fabric)}


def left_out() -> list[str]:
    """Patterns of files that no machine and no image gets: Ray reads the same two files for a job's copy."""
    lines = [line for name in (".rayignore", ".gitignore") for line in (ROOT / name).read_text().splitlines()]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def shared() -> dict[str, str]:
    """Name -> text of the files in `cluster/` that are the same for every preset."""
    exports = "".join(f'export {name}="${{{name}:-{value}}}"\n' for name, value in ENVIRONMENT.items())
    # Docker looks for a pattern at the top alone, unless it is told otherwise; rsync and git look in every folder.
    ignored = "".join(f"{line if '/' in line[:-1] else f'**/{line}'}\n" for line in left_out())
    return {
        "environment.sh": f"# What Ray is started with; what is set already stays. {WRITTEN}\n{exports}",
        "Dockerfile.dockerignore": f"# What .rayignore and .gitignore name. {WRITTEN}\n{ignored}",
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the files that bring a cluster up for a preset.")
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--out", type=Path, help="folder to write into")
    parser.add_argument("--rdma", type=_pair, metavar="RESOURCE=COUNT", help="RDMA adapters of a GPU node: rdma/ib=8")
    parser.add_argument("--host-network", action="store_true", help="GPU pods use their node's own interfaces")
    parser.add_argument("--nccl", type=_pair, action="append", default=[], metavar="NCCL_NAME=VALUE")
    arguments = parser.parse_args(argv)
    if (arguments.preset is None) != (arguments.out is None):
        parser.error("give both --preset and --out, or neither")
    try:
        fabric = _fabric(arguments.rdma, arguments.host_network, dict(arguments.nccl))
    except ValueError as error:
        parser.error(str(error))
    if arguments.preset is None and fabric != Fabric():
        parser.error("--rdma, --host-network and --nccl are of your cluster: give --preset and --out too")
    targets = {arguments.preset: arguments.out} if arguments.preset else {p: ROOT / FOLDER / p for p in COMMITTED}
    texts = {folder / name: text for preset, folder in targets.items() for name, text in files(preset, fabric).items()}
    if arguments.preset is None:
        texts |= {ROOT / "cluster" / name: text for name, text in shared().items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value or len(text.split()) != 1:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def _fabric(rdma: tuple[str, str] | None, host_network: bool, nccl: dict[str, str]) -> Fabric:
    """Raises ValueError where a count or a name is none."""
    if rdma is not None and not (rdma[1].isdigit() and int(rdma[1])):
        raise ValueError(f"--rdma {rdma[0]}={rdma[1]}: {rdma[1]} is no number of adapters")
    if wrong := [name for name in nccl if not name.startswith("NCCL_")]:
        raise ValueError(f"--nccl {wrong[0]}: only NCCL_* variables go here; others belong into cluster/values.py")
    return Fabric(None if rdma is None else (rdma[0], int(rdma[1])), host_network, nccl)


def _metadata(preset: str, what: str) -> dict[str, Any]:
    labels = NAMES | {"app.kubernetes.io/component": what, "app.kubernetes.io/version": VERSION}
    return {"name": f"ilm-{_dashed(preset)}-{what}", "labels": labels}


def _words(environment: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def _dashed(preset: str) -> str:
    return preset.replace("_", "-")


def _dump(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120)


if __name__ == "__main__":
    main()
