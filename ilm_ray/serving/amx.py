"""Leave to compute with AMX, which vLLM takes for granted."""

import torch


def allow_amx() -> None:
    """Ask Linux for this process's leave to use AMX; does nothing on a processor without.

    vLLM computes attention in bf16 with AMX where there is one, yet never asks, and a process without leave dies of an
    illegal instruction. Called by the engine within a rollout's actor; as a plugin of vLLM's (`pyproject.toml`) it runs
    in each process of a server, too, none of which inherits it.
    """
    torch.cpu._init_amx()
