"""A rank that forms a process group with other ranks of its role: the learners' all, or those that hold one copy."""

import datetime
import os

import torch
import torch.distributed as dist

from actors.group import Figures, timed
from actors.ppo.channel import Meeting


class Member:
    """Base of such an actor class; `actors.group` calls its two methods before it builds, see `Role`."""

    device: torch.device

    @timed
    def open_store(self, members: int) -> tuple[None, Figures]:
        """Open the store where `members` ranks meet, on a port that the system picks; with 0 another rank opens it."""
        if not members:
            return None, {}
        self.meeting = Meeting(members)
        return None, {"host": self.meeting.host, "port": self.meeting.port}

    @timed
    def join(self, place: Figures, rank: int, members: int, deadline_s: float) -> tuple[None, Figures]:
        """Form the process group as its `rank`-th. A collective that waits longer than the deadline raises."""
        host, port = place["host"], place["port"]
        timeout = datetime.timedelta(seconds=deadline_s)
        if rank == 0:
            store = self.meeting.store
        else:
            store = dist.TCPStore(host, port, members, is_master=False, timeout=timeout)
        # DeepSpeed reads its place from the environment even where the process group is there already; device meshes
        # take the number of the GPU from it, and each rank sees its own alone.
        variables = {"RANK": rank, "WORLD_SIZE": members, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        os.environ.update({k: str(v) for k, v in variables.items()}, MASTER_ADDR=host, MASTER_PORT=str(port))
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=members, timeout=timeout)
        return None, {}
