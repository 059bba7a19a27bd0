"""A plugin (`pyproject.toml`) that vLLM loads in each of its processes, for things that vLLM leaves undone."""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess

import torch


def prepare_process() -> None:
    """Called by vLLM in every process of a server."""
    allow_amx()
    parent = multiprocessing.parent_process()
    if parent is not None:  # an engine or a worker of one
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def allow_amx() -> None:
    """Ask Linux for this process's leave to use AMX; does nothing on a processor without.

    vLLM computes attention in bf16 with AMX where there is one, yet never asks, and a process without leave dies of an
    illegal instruction. Children do not inherit it.
    """
    torch.cpu._init_amx()


def _end_with(parent: BaseProcess) -> None:
    """An engine outlives a server that was killed, and keeps its memory for good."""
    parent.join()
    os._exit(1)
