"""A channel from one sender to many receivers: broadcasts in a process group of its own, gloo or NCCL.

It is made beside the groups that a process has already (DeepSpeed's, vLLM's). Every wait ends after the channel's
deadline with an error.
"""

import datetime
import os
from typing import Any  # torch's stubs do not know the methods of process groups

import ray
import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.model.names import Weights

Spec = list[tuple[str, torch.dtype, tuple[int, ...]]]  # of a bucket: names, types and shapes in order
SENDER = 0  # rank


def spec_of(part: Weights) -> Spec:
    """Names, shapes and types of a bucket's tensors, for its receiver."""
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in part.items()]


class Meeting:
    """A store where the members of a channel meet, on a port that the system picks. It is open while this lives."""

    def __init__(self, members: int) -> None:
        on_loopback = os.environ.get("GLOO_SOCKET_IFNAME") == "lo"
        self.host = "127.0.0.1" if on_loopback else ray.util.get_node_ip_address()
        self.store = dist.TCPStore(self.host, 0, members, is_master=True, wait_for_workers=False)
        self.port = self.store.port


class Channel:
    """Membership in a channel. Every member makes one at the same time; it blocks until all are there."""

    def __init__(
        self, place: tuple[str, int], rank: int, members: int, device: torch.device, deadline_s: float
    ) -> None:
        self.device, self.timeout = device, datetime.timedelta(seconds=deadline_s)
        store = dist.TCPStore(*place, members, is_master=False, timeout=self.timeout)
        self.group: Any
        if device.type == "cuda":
            options: Any = dist.ProcessGroupNCCL.Options()
            options._timeout = self.timeout
            self.group = dist.ProcessGroupNCCL(store, rank, members, options)
        else:
            self.group = dist.ProcessGroupGloo(store, rank, members, self.timeout)

    def send(self, part: Weights) -> None:
        """Send a bucket to all others. Raises RuntimeError where a receiver is lost."""
        for tensor in part.values():
            self._broadcast(tensor.to(self.device).contiguous())

    def receive(self, spec: Spec) -> Weights:
        """The bucket that the sender sends now. Raises RuntimeError where the sender is lost."""
        part = {name: torch.empty(shape, dtype=dtype, device=self.device) for name, dtype, shape in spec}
        for tensor in part.values():
            self._broadcast(tensor)
        return part

    def _broadcast(self, tensor: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = SENDER, 0
        options.timeout = self.timeout
        # As bytes: gloo does not know every type.
        self.group.broadcast([tensor.view(-1).view(torch.uint8)], options).wait(self.timeout)

    def close(self) -> None:
        """Leave the channel; the others' waits end with an error."""
        if self.device.type == "cuda":
            self.group.abort()
        del self.group
