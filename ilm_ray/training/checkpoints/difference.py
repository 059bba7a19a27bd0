"""Differences between two checkpoints of one model, tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.training.checkpoints.states import load_tensors, tensors_in

_AT_ONCE = 1 << 28  # bytes of one checkpoint in memory


@dataclass(frozen=True)
class TensorDifference:
    """Difference of one tensor between checkpoints a and b.

    largest: max |a - b|; relative: that over max |a|; norm, norm_a: Euclidean norms of a - b and of a.
    """

    name: str
    largest: float
    relative: float
    norm: float
    norm_a: float


def differences(a: Path, b: Path) -> list[TensorDifference]:
    """Differences of all weights and moments, the largest first. Raises UserError where the models differ."""
    wanted, other = tensors_in(a), tensors_in(b)
    if {n: e.size for n, e in wanted.items()} != {n: e.size for n, e in other.items()}:
        raise UserError(f"{a} and {b} hold different tensors; give two steps of one run")
    sizes = {name: entry.size.numel() * entry.properties.dtype.itemsize for name, entry in wanted.items()}
    tensor_differences = list[TensorDifference]()
    for names in _batches(sizes):
        some_a, some_b = load_tensors(a, {n: wanted[n] for n in names}), load_tensors(b, {n: other[n] for n in names})
        tensor_differences += [_difference(name, some_a[name], some_b[name]) for name in names]
    return sorted(tensor_differences, key=lambda difference: -difference.largest)


def kind_of(name: str) -> str:
    """Kind of a tensor: `weights`, or the optimizer's `exp_avg`, `exp_avg_sq`, `step`."""
    return "weights" if name.startswith("model.") else name.rsplit(".", 1)[-1]


def _difference(name: str, a: Tensor, b: Tensor) -> TensorDifference:
    a, b = a.double(), b.double()
    largest, scale = float((a - b).abs().max()), float(a.abs().max())
    relative = largest / scale if scale else float(largest > 0)
    return TensorDifference(name, largest, relative, float((a - b).norm()), float(a.norm()))


def _batches(sizes: dict[str, int]) -> Iterator[list[str]]:
    batch, held = list[str](), 0
    for name, size in sizes.items():
        if batch and held + size > _AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch
