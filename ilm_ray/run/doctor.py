"""Checks of a machine before a run: each gives a finding of one line with a remedy. Knows nothing of Ray.

Every check really does the thing it is about (binds the port, writes the file): a rule of thumb would be wrong on the
one machine where it matters.
"""

import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ilm_ray.base.files import temporary_path

GIB, MIB = 2**30, 2**20
WRITTEN_BYTES = 8 * MIB  # enough to tell a disk that stands from one that crawls
SLOWEST_WRITE = 10 * MIB  # bytes/s; below it a checkpoint of 1.8B parameters takes half an hour
MAX_SKEW_S = 1.0  # clocks further apart make the order of events in journals and diagnoses wrong


@dataclass(frozen=True)
class Finding:
    """The result of a check. name: what was looked at; todo: a remedy for the observation, empty if all is well."""

    name: str
    observation: str
    todo: str = ""

    @property
    def ok(self) -> bool:
        return not self.todo

    def line(self) -> str:
        return (
            f"ok    {self.name}: {self.observation}"
            if self.ok
            else f"WRONG {self.name}: {self.observation}; {self.todo}"
        )


def check_versions(
    requirements: Iterable[str], installed: Callable[[str], str | None], python: str, wanted_python: str
) -> Finding:
    """requirements: as in a package's metadata, those of extras left out; installed: the version of a package."""
    wrong = [] if SpecifierSet(wanted_python).contains(python) else [f"Python {python} (want {wanted_python})"]
    count = 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        version = installed(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (want {requirement.specifier})")
    todo = "run `make setup` anew, and use the Python in .venv/bin" if wrong else ""
    return Finding("versions", ", ".join(wrong) or f"Python {python} and {count} packages as pinned", todo)


def own_versions() -> Finding:
    """The versions that this process would import."""
    about = metadata.metadata("ilm_ray")
    return check_versions(
        metadata.requires("ilm_ray") or [], installed_version, platform.python_version(), about["Requires-Python"]
    )


def installed_version(package: str) -> str | None:
    """Version of a distribution in this environment; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def same_versions(of_nodes: Mapping[str, Mapping[str, str | None]]) -> Finding:
    """node -> package -> version. Ray refuses other versions of Python or Ray; other torches fail in the middle."""
    packages = sorted({name for versions in of_nodes.values() for name in versions})
    differing = [
        f"{name} ({', '.join(f'{node}: {versions[name]}' for node, versions in of_nodes.items())})"
        for name in packages
        if len({versions[name] for versions in of_nodes.values()}) > 1
    ]
    todo = "install the same environment on every node" if differing else ""
    return Finding(
        "same versions", "; ".join(differing) or f"{len(of_nodes)} node(s) agree on {', '.join(packages)}", todo
    )


def check_ports(first: int, count: int) -> Finding:
    """Nobody listens on `count` ports from `first`, which `cluster/local.sh` and `ray start` would take."""
    busy = []
    for port in range(first, first + count):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not hold a port
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                busy.append(str(port))
    todo = "choose another --port-base, or stop what listens there" if busy else ""
    return Finding("ports", f"{', '.join(busy)} taken" if busy else f"{first}-{first + count - 1} are free", todo)


def check_shared_memory(folder: Path, need: int, started: bool = True) -> Finding:
    """folder: /dev/shm; need: bytes of the object store that lies there, or is to.

    started: the store is there already and has taken its part, so the size of `folder` is judged, not its free space.
    """
    usage = shutil.disk_usage(folder)
    room, kind = (usage.total, "in all") if started else (usage.free, "free")
    observation = f"{room / GIB:.1f} GiB {kind} in {folder}, the object store takes {need / GIB:.1f}"
    todo = (
        "give the container a larger /dev/shm (docker --shm-size, a Memory volume in Kubernetes), or lower "
        "ray.object_store_mb (of a cluster: --object-store-memory of `ray start`)"
    )
    return Finding("shared memory", observation, todo if room < need else "")


def check_storage(folder: Path, need: int) -> Finding:
    """Write, sync, read back and rename over an older file, as checkpoints and manifests do. need: bytes of a run.

    A folder that is not there yet is judged by the nearest one above it that is.
    """
    name = f"storage {folder}"
    content = os.urandom(WRITTEN_BYTES)
    where = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    target, half = (temporary_path(where / "doctor") for _ in range(2))
    try:
        target.write_bytes(b"older")
        started = time.monotonic()
        with half.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        seconds = time.monotonic() - started
        half.replace(target)
        same = target.read_bytes() == content
        free = shutil.disk_usage(where).free
    except OSError as error:
        return Finding(name, f"{error.strerror or error}", "choose a folder with room that you may write to")
    finally:
        for left in (target, half) if where.is_dir() else ():
            left.unlink(missing_ok=True)
    speed = WRITTEN_BYTES / max(seconds, 1e-9)
    observation = f"{speed / MIB:.0f} MiB/s, {free / GIB:.1f} GiB free"
    if not same:
        return Finding(name, "what was read is not what was written", "use another file system")
    if free < need:
        return Finding(
            name, f"{observation}, the run may need {need / GIB:.1f}", "make room, or choose another --run-dir"
        )
    if speed < SLOWEST_WRITE:
        return Finding(
            name, observation, f"use a faster disk: below {SLOWEST_WRITE // MIB} MiB/s checkpoints hold up training"
        )
    return Finding(name, observation)


def check_gpus(devices: int, usable: int, names: Iterable[str], cuda: str | None, driver: str | None) -> Finding:
    """devices: that the driver shows; usable: that torch can use; cuda, driver: versions (cuda: of torch)."""
    if devices == 0:
        return Finding("GPU", "none; everything runs on CPUs")
    observation = f"{devices} x {', '.join(sorted(set(names))) or 'unknown'}, driver {driver}, torch for CUDA {cuda}"
    if cuda is None:
        return Finding(
            "GPU", observation, "this torch is built for CPUs: install with `make setup` where nvidia-smi is found"
        )
    if usable < devices:
        return Finding(
            "GPU", f"{observation}; torch can use {usable}", "update the driver, or look at `nvidia-smi` for errors"
        )
    return Finding("GPU", observation)


def check_clocks(skews: Mapping[str, tuple[float, float]]) -> Finding:
    """node -> (seconds its clock is ahead, how far that may be off). Judged by certain figures alone."""
    wrong = [f"{node} {skew:+.2f} s" for node, (skew, error) in skews.items() if abs(skew) - error > MAX_SKEW_S]
    widest = max((abs(skew) for skew, _ in skews.values()), default=0.0)
    observation = f"{', '.join(wrong)} from this one" if wrong else f"at most {widest:.2f} s apart"
    return Finding(
        "clocks", observation, "run a time service (chrony, systemd-timesyncd) on every node" if wrong else ""
    )


def skew_of(before: float, remote: float, after: float) -> tuple[float, float]:
    """(seconds that `remote` is ahead, its error) of a clock that was read between `before` and `after` of ours."""
    return remote - (before + after) / 2, (after - before) / 2


def check_seen_by_all(folder: Path, seen: Mapping[str, bool]) -> Finding:
    """seen: node -> whether it read this one's file there."""
    blind = [node for node, visible in seen.items() if not visible]
    observation = f"not seen by {', '.join(blind)}" if blind else f"seen by {len(seen)} node(s)"
    return Finding(
        f"shared {folder}", observation, "give a --run-dir on storage that every node mounts" if blind else ""
    )
