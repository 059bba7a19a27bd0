"""The states of the random number generators of one process, as JSON: no pickle, and a person can look at them."""

import base64
import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """States of torch (CPU and, where there is one, the current CUDA device), numpy's global generator and Python's."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, normal = random.getstate()
    return {
        "torch": _encoded(torch.get_rng_state()),
        "cuda": _encoded(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), normal],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`; a CUDA state is left out where there is no such device."""
    torch.set_rng_state(_decoded(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_decoded(state["cuda"]))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, normal = state["python"]
    random.setstate((version, tuple(internal), normal))


def _encoded(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decoded(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
