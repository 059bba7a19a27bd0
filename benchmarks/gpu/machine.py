"""The machine that figures come from: card, driver, versions. Asked in a process of its own, for it imports torch."""

import datetime
import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Case, Figures, Where
from ilm_ray.run.gpus import check_driver, listed_gpus

PACKAGES = (
    *("torch", "triton", "flash-attn", "flash-attn-3", "flash-attn-4", "transformers", "numpy", "pydantic"),
    *("vllm", "ray", "deepspeed"),
)


def cases(where: Where) -> list[Case]:
    return [Case("machine", functools.partial(about, where))]


def about(where: Where) -> Figures:
    """device, driver, memory, versions of PACKAGES (None: not installed), commit, date."""
    import torch

    listing = listed_gpus()
    figures: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "driver": listing.gpus[0].driver if listing.gpus else None,
        "driver_check": check_driver(listing).line(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if where.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        figures |= {
            "device": properties.name,
            "devices": torch.cuda.device_count(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
        }
    return figures


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this repository; None outside git."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    return done.stdout.strip() or None
