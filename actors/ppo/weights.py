"""Weights on their way from the policy to a rollout engine: one message with a version and a digest of every tensor.

The tensors lie in the object store, or come through a channel between devices (`actors/ppo/channel.py`); an engine
checks the same things.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import ray
import torch
from torch import Tensor

from actors.group import Figures
from actors.ppo.channel import Channel, Spec, spec_of
from ilm_ray.alignment.ppo.digest import digests
from ilm_ray.model.names import Weights

BUCKET_BYTES = 256 * 2**20  # no process then needs a second copy of a whole large model in one piece
NAMED = 4  # tensors that a message names
PROBED = 16  # columns that are read back of a matrix that cannot be read whole


@dataclass(frozen=True)
class WeightMessage:
    """Announces all weights of a version under LLaMA names, with their digests at the sender.

    buckets: in the object store, or within the message where the model is small; specs: of the tensors that will come
    through a channel. One of the two is empty.
    """

    version: int
    digests: dict[str, str]
    buckets: list[Weights | ray.ObjectRef]
    specs: list[Spec]

    def open(self, deadline_s: float, channel: Channel | None = None) -> Iterator[Weights]:
        """Bucket by bucket. Raises ray.exceptions.GetTimeoutError where one does not arrive in time, RuntimeError where
        the channel breaks or there is none."""
        for bucket in self.buckets:
            yield ray.get(bucket, timeout=deadline_s) if isinstance(bucket, ray.ObjectRef) else bucket
        if self.specs and channel is None:
            raise RuntimeError(
                f"weights of version {self.version} come through a channel that this engine has not joined"
            )
        for spec in self.specs:
            assert channel is not None
            yield channel.receive(spec)


@dataclass
class Arrived:
    """Digests of the tensors that passed through `watch`; of matrices also those of their probed columns."""

    parts: int  # that probed columns are taken of, side by side
    whole: dict[str, str] = field(default_factory=dict)
    probed: dict[str, str] = field(default_factory=dict)

    def watch(self, buckets: Iterable[Weights], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """The tensors on `device`, one by one."""
        for bucket in buckets:
            here = {name: tensor.to(device) for name, tensor in bucket.items()}
            self.whole |= digests(here)
            matrices = {name: tensor for name, tensor in here.items() if tensor.dim() == 2}
            self.probed |= digests({n: t[:, probe_columns(t.shape[1], self.parts)] for n, t in matrices.items()})
            yield from here.items()


@dataclass(frozen=True)
class Held:
    """Digests of the weights that an engine holds; `probed`: names of those read at their probed columns alone."""

    digests: dict[str, str]
    probed: frozenset[str] = frozenset()

    def expected(self, arrived: Arrived) -> dict[str, str]:
        """The digests that these should have, were they those that arrived."""
        return {name: arrived.probed.get(name, line) if name in self.probed else line
                for name, line in arrived.whole.items()}  # fmt: skip


def probe_columns(count: int, parts: int = 1) -> list[int]:
    """Up to PROBED columns of each of `parts` equal parts of `count`, evenly over all."""
    size = count // parts
    chosen = [i * size // PROBED for i in range(PROBED)] if size > PROBED else list(range(size))
    return [part * size + column for part in range(parts) for column in chosen]


def pack(parts: Iterable[Weights], version: int) -> tuple[WeightMessage, Figures]:
    """The message with all weights in the object store, and its announcement: version, checksum, bytes."""
    sent: dict[str, str] = {}
    buckets: list[Weights | ray.ObjectRef] = []
    size = 0
    for part in parts:
        sent |= digests(part)  # where the tensors are
        bucket = {name: tensor.cpu() for name, tensor in part.items()}
        size += _bytes(part)
        if len(buckets) == 1 and not isinstance(buckets[0], ray.ObjectRef):
            buckets[0] = ray.put(buckets[0])
        buckets.append(ray.put(bucket) if buckets else bucket)
    return WeightMessage(version, sent, buckets, []), stamp_of(version, sent, size)


def announce(parts: Iterable[Weights], version: int) -> tuple[WeightMessage, Figures]:
    """The message for weights that a channel will carry, and its announcement."""
    sent: dict[str, str] = {}
    specs: list[Spec] = []
    size = 0
    for part in parts:
        sent |= digests(part)
        specs.append(spec_of(part))
        size += _bytes(part)
    return WeightMessage(version, sent, [], specs), stamp_of(version, sent, size)


def stamp_of(version: int, sent: Mapping[str, str], size: int) -> Figures:
    """Announcement of a message."""
    return {"version": version, "checksum": checksum(sent), "bytes": size}


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


def checksum(digest: Mapping[str, str]) -> str:
    """One hash for the digests of all tensors, in any order of their names."""
    lines = "\n".join(f"{name} {digest[name]}" for name in sorted(digest))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def differing(actual: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The names of tensors with another digest than expected, in words; empty where there are none."""
    names = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _bytes(part: Weights) -> int:
    return sum(t.numel() * t.element_size() for t in part.values())
