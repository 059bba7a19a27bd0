"""Weights on their way from the policy to a rollout engine: one message, a version, a digest of every tensor."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ray
import torch
from torch import Tensor

from actors.group import Figures
from ilm_ray.model.weights import Weights

BUCKET_BYTES = 256 * 2**20  # no process then needs a second copy of a whole large model in one piece
NAMED = 4  # tensors that a message names


@dataclass(frozen=True)
class WeightMessage:
    """All weights of a version under LLaMA names, on the CPU, with their digests at the sender.

    A small model is one bucket within the message; the buckets of a larger one lie in the object store.
    """

    version: int
    digests: dict[str, str]
    buckets: list[Weights | ray.ObjectRef]

    def open(self, deadline_s: float) -> Iterator[Weights]:
        """Bucket by bucket. Raises ray.exceptions.GetTimeoutError where one does not arrive in time."""
        for bucket in self.buckets:
            yield ray.get(bucket, timeout=deadline_s) if isinstance(bucket, ray.ObjectRef) else bucket


def pack(parts: Iterable[Weights], version: int) -> tuple[WeightMessage, Figures]:
    """The message, and its announcement: version, checksum, bytes."""
    sent: dict[str, str] = {}
    buckets: list[Weights | ray.ObjectRef] = []
    size = 0
    for part in parts:
        sent |= digests(part)
        size += sum(t.numel() * t.element_size() for t in part.values())
        if len(buckets) == 1 and not isinstance(buckets[0], ray.ObjectRef):
            buckets[0] = ray.put(buckets[0])
        buckets.append(ray.put(part) if buckets else part)
    return WeightMessage(version, sent, buckets), {"version": version, "checksum": checksum(sent), "bytes": size}


def cut_by_bytes(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, in parts of at most `limit` bytes (a larger tensor stays alone). sizes: bytes by name."""
    parts: list[list[str]] = []
    load = 0
    for name, size in sizes.items():
        if not parts or load + size > limit:
            parts.append([])
            load = 0
        parts[-1].append(name)
        load += size
    return parts


def digests(weights: Weights) -> dict[str, str]:
    """Hash of shape, type and bytes of each tensor."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter's lock
        return dict(zip(weights, pool.map(_digest, weights.values()), strict=True))


def checksum(digest: dict[str, str]) -> str:
    """One hash for the digests of all tensors, in any order of their names."""
    lines = "\n".join(f"{name} {digest[name]}" for name in sorted(digest))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def differing(actual: dict[str, str], expected: dict[str, str]) -> str:
    """The names of tensors with another digest than expected, in words; empty where there are none."""
    names = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(data.shape)} {data.dtype}\n".encode())
    digest.update(data.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
