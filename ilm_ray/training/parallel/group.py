"""A process group of some of the ranks that were started, where not all of them can be used."""

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist


def keep_ranks(used: int, timeout_s: float) -> bool:
    """Replace the default process group by one of the first `used` ranks; False on a rank that is left over.

    Every rank calls it. One that is left over gets a group of its own, so that its end finds a group.
    """
    if used == dist.get_world_size():
        return True
    rank, backend, timeout = dist.get_rank(), dist.get_backend(), timedelta(seconds=timeout_s)
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    port = torch.tensor([_free_port() if rank == 0 else 0], device=device)
    dist.broadcast(port, 0)
    dist.barrier()
    dist.destroy_process_group()
    if rank >= used:
        dist.init_process_group("gloo", store=dist.HashStore(), world_size=1, rank=0)
        return False
    # The first rank's address: whoever made the first group has set it.
    address = f"tcp://{os.environ['MASTER_ADDR']}:{int(port.item())}"
    dist.init_process_group(backend, init_method=address, world_size=used, rank=rank, timeout=timeout)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
