"""N gloo ranks as forked processes that share the parent's imports: the quick way to test what is distributed."""

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

LAST_WORDS_S = 5.0


def run_ranks(function: Callable[..., None], ranks: int, *arguments: Any, deadline_s: float = 120) -> None:
    """`function(*arguments)` in `ranks` processes inside a gloo group; fails if one fails or the deadline passes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.set_num_threads(1)
    pids = [_fork(function, rank, ranks, port, arguments) for rank in range(ranks)]
    deadline = time.monotonic() + deadline_s
    waiting, failed = dict(enumerate(pids)), list[int]()
    while waiting and time.monotonic() < deadline:
        for rank, pid in list(waiting.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del waiting[rank]
                if status and not failed:  # the others may still say what they saw of it
                    deadline = min(deadline, time.monotonic() + LAST_WORDS_S)
                failed += [rank] if status else []
        time.sleep(0.02)
    for pid in waiting.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not failed, f"ranks {failed} failed"
    assert not waiting, f"ranks {sorted(waiting)} did not end within {deadline_s} s"


def _fork(function: Callable[..., None], rank: int, ranks: int, port: int, arguments: tuple[Any, ...]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        dist.init_process_group("gloo")
        function(*arguments)
        dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)
