"""Frozen models whose copy may be split over several ranks by tensor parallelism, for models that no single GPU
holds."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import loss_parallel

from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.model.weights import load_shape, read_weights
from ilm_ray.training.parallel.tensor import split_tensors

Model = TypeVar("Model", CausalLM, ScalarModel)


def load_frozen(kind: type[Model], folder: Path, device: torch.device, dtype: torch.dtype, ranks: int) -> Model:
    """The model of a folder without gradients; with `ranks` above 1 this rank's share of it: no rank holds the whole.

    `ranks` is then the size of the default process group, all of which call it, and which all call the model inside
    `scoring(ranks)` with the same batch: all get the result. It divides kv_heads, mlp_hidden and vocabulary.
    Raises UserError where the folder cannot be read.
    """
    with torch.device("meta"):
        model = kind(load_shape(folder)).to(dtype)
    if ranks > 1:
        assert ranks == dist.get_world_size()
        split_tensors(model, init_device_mesh(device.type, (ranks,)), sequence_parallel=False)
    read_weights(model.to_empty(device=device), folder)
    return model.requires_grad_(False)


def scoring(ranks: int) -> AbstractContextManager[None]:
    """Context for calls of a model of `load_frozen`: where it is split, so are its logits over the vocabulary."""
    return loss_parallel() if ranks > 1 else nullcontext()
