"""The GPUs of this machine as NVIDIA's driver lists them, and whether that driver is new enough. Imports no torch."""

import csv
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from ilm_ray.run.doctor import Finding

# The oldest driver branch for CUDA 13, which the wheels of our torch and vLLM bring: CUDA Toolkit 13.0 release notes,
# table "Minimum Required Driver Version for CUDA Minor Version Compatibility".
OLDEST_DRIVER = 580
COMMAND = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total,compute_cap", "--format=csv")
HEADER = ("driver_version", "name", "memory.total [MiB]", "compute_cap")
UPDATE = (
    f"install driver {OLDEST_DRIVER} or later on the machine, not in the container or environment, and start it again"
)
MIB = 2**20
# CUDA offers programs a little less than the driver has: 23.6 of 24.0 GiB of an RTX 4090, 22.0 of 22.5 of an L4
# (PyTorch's out-of-memory messages against `nvidia-smi`).
OFFERED = 0.98


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, the bytes of it that CUDA offers, and its compute capability (major, minor).

    memory: 0 where the driver does not say, as for a chip that shares its host's memory.
    """

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Listing:
    """gpus: all of them; driver: its version; trouble: its words where it lists none, "" where there is no driver."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    trouble: str = ""


def listed_gpus() -> Listing:
    """Ask nvidia-smi. No nvidia-smi means no driver, and an empty listing."""
    try:
        process = subprocess.run(COMMAND, capture_output=True, text=True, errors="replace", timeout=30)
    except (FileNotFoundError, PermissionError):
        return Listing()
    except subprocess.TimeoutExpired:
        return Listing(trouble="nvidia-smi does not answer within 30 s")
    return parse_listing(process.stdout + process.stderr)


def parse_listing(output: str) -> Listing:
    """The rows of `COMMAND`'s output. Without its header, or with a row that is none, all of it counts as trouble."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(output.splitlines()) if row]
    if not rows or tuple(rows[0]) != HEADER:
        return Listing(trouble=_first_line(output) or "nvidia-smi says nothing")
    gpus, driver = [], ""
    for row in rows[1:]:
        driver, name, memory, capability = row if len(row) == len(HEADER) else ("", "", "", "")
        major, _, minor = capability.partition(".")
        if not driver.split(".")[0].isdigit() or not name or not (major.isdigit() and minor.isdigit()):
            return Listing(trouble=", ".join(row))
        number, _, unit = memory.partition(" ")
        mib = int(number) if number.isdigit() and unit == "MiB" else 0
        gpus.append(Gpu(name, int(mib * MIB * OFFERED), (int(major), int(minor))))
    return Listing(tuple(gpus), driver, "" if gpus else "nvidia-smi lists no GPU")


def weakest(gpus: Iterable[Gpu]) -> Gpu | None:
    """The least memory of these GPUs with the lowest capability of all; None where no memory is known."""
    every = [gpu for gpu in gpus if gpu.memory]
    if not every:
        return None
    least = min(every, key=lambda gpu: (gpu.memory, gpu.name))
    return Gpu(least.name, least.memory, min(gpu.capability for gpu in every))


def check_driver(listing: Listing) -> Finding:
    """Can CUDA 13 run with this driver? Well where there is no driver: then everything runs on CPUs."""
    if listing.trouble:
        return Finding("driver", f"nvidia-smi: {listing.trouble}", f"mend the NVIDIA driver: {UPDATE}")
    if not listing.gpus:
        return Finding("driver", "no NVIDIA driver; everything runs on CPUs")
    driver = listing.driver
    if int(driver.split(".")[0]) < OLDEST_DRIVER:
        return Finding("driver", f"{driver} is too old for the CUDA 13 of torch and vLLM", UPDATE)
    return Finding("driver", f"{driver}, {len(listing.gpus)} GPU(s)")


def why_unusable() -> str:
    """The reason why torch cannot use the GPUs of this machine, with the remedy, or "". Imports torch.

    Made for a process of its own: it also looks at GPUs that this process is not meant to use.
    """
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    if torch.cuda.is_available():
        return ""
    driver = check_driver(listed_gpus())
    if not driver.ok:
        return f"{driver.observation}; {driver.todo}"
    if torch.version.cuda is None:
        return "its torch is built for CPUs; run `make setup` where nvidia-smi is found"
    return "CUDA finds no device; look at `nvidia-smi`, and whether the container was given the GPUs"


def _first_line(text: str) -> str:
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "")
