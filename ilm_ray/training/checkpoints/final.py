"""The model that a training leaves, written from its last checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.model.weights import new_internlm2
from ilm_ray.model.weights_file import order_of
from ilm_ray.training.checkpoints import commit, states
from ilm_ray.training.parallel.parallelize import ParallelModel

PIECE_BYTES = 2**30  # of the model, written between two heartbeats


def write_final(
    model: ParallelModel, folder: Path, about: Mapping[str, str], base: Path | None, alive: Callable[[], None]
) -> None:
    """Write `folder/model` from the last checkpoint, which holds the layers of all ranks.

    Every rank calls it. Rank 0 writes a piece at a time and never holds the whole. The other ranks meet it after each
    piece, and every rank calls `alive` before it: so a rank counts as hung when a piece takes too long, not when the
    model is large. about, base: as in `save_internlm2`.
    """
    with torch.device("meta"):
        like = (CausalLM if isinstance(model.parts[0], CausalLM) else ScalarModel)(model.shape).state_dict()
    pieces = _cut(order_of(like), {name: tensor.numel() * tensor.element_size() for name, tensor in like.items()})
    first = dist.get_rank() == 0
    with new_internlm2(folder / "model", model.shape, like, about, base) if first else nullcontext() as out:
        for piece in pieces:
            alive()
            if out is not None:
                weights = states.load_weights(commit.committed(folder / "checkpoints")[-1], piece)
                for name in piece:
                    out.write(name, weights[name].to(like[name].dtype))
            dist.barrier()
    dist.barrier()  # the file has its name now


def _cut(names: Sequence[str], sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in order, cut into pieces of at most PIECE_BYTES (a larger tensor stays alone)."""
    pieces, room = list[list[str]](), 0
    for name in names:
        if not pieces or sizes[name] > room:
            pieces.append([])
            room = PIECE_BYTES
        pieces[-1].append(name)
        room -= sizes[name]
    return pieces
