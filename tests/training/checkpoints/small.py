"""A model of two matrices with AdamW, the same on every rank, that a step moves by a known amount."""

from pathlib import Path

import torch
from torch import Tensor, nn, optim

from ilm_ray.training.checkpoints.checkpoints import Checkpoints
from ilm_ray.training.checkpoints.states import Part


def made(seed: int = 0, width: int = 128) -> Part:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    return model, optim.AdamW(model.parameters(), lr=0.01)


def advance(part: Part) -> None:
    model, optimizer = part
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def contents(part: Part) -> dict[str, Tensor]:
    """Copies of weights and moments by name."""
    model, optimizer = part
    out = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        out |= {f"{name} {kind}": value.clone() for kind, value in optimizer.state[parameter].items()}
    return out


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(checkpoints: Checkpoints, part: Part, first: int, last: int) -> None:
    """Steps `first` to `last`, a checkpoint after each."""
    for step in range(first, last + 1):
        advance(part)
        checkpoints.save(step, [part], {"tokens": 10 * step}, last=step == last)


def weights_after(steps: int) -> dict[str, Tensor]:
    """Contents of `made` after so many steps."""
    part = made()
    for _ in range(steps):
        advance(part)
    return contents(part)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
