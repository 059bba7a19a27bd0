"""Our own model folders: `model.safetensors` with InternLM2's names and `shape.json`. safetensors only."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ilm_ray.base.errors import UserError
from ilm_ray.model.initial import share_of
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape
from ilm_ray.model.names import Weights
from ilm_ray.model.origin import carry_origin
from ilm_ray.model.weights_file import WeightsFile


def save_internlm2(
    model: CausalLM | ScalarModel, folder: Path, about: Mapping[str, str] | None = None, base: Path | None = None
) -> None:
    """Write our own format: `model.safetensors` with InternLM2's names, and `shape.json`.

    about: further entries of the weights' header, see `read_about`. base: the folder of the model that this one was
    trained from, whose origin it keeps.
    """
    weights = full_weights(model)
    with new_internlm2(folder, model.shape, weights, about or {}, base) as out:
        for name in out.order:
            out.write(name, weights[name])


@contextmanager
def new_internlm2(
    folder: Path, shape: Shape, like: Mapping[str, Tensor], about: Mapping[str, str], base: Path | None = None
) -> Iterator[WeightsFile]:
    """As `save_internlm2`, for a caller who writes tensor after tensor. like: tensors of the right shapes and types."""
    folder.mkdir(parents=True, exist_ok=True)
    with WeightsFile(folder / "model.safetensors", like, {"format": "pt", **about}) as out:
        yield out
        (folder / "shape.json").write_text(json.dumps(asdict(shape), indent=1))
        carry_origin(base, folder)


def load_shape(folder: Path) -> Shape:
    """The size of a model saved by `save_internlm2`. Raises UserError where there is none."""
    try:
        return Shape.of(json.loads((folder / "shape.json").read_text()))
    except (OSError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder} holds no model of ours (shape.json: {error}); give a folder with one") from None


def read_about(folder: Path) -> dict[str, str]:
    """The metadata in the header of a folder's weights. Raises UserError where it cannot be read."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return {key: value for key, value in (file.metadata() or {}).items() if key != "format"}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); run again what wrote it, or copy it anew") from None


def tensor_names(folder: Path) -> set[str]:
    """The names of a folder's tensors. Raises UserError where they cannot be read."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); run again what wrote it, or copy it anew") from None


CPU = torch.device("cpu")


def load_causal(folder: Path, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The policy model of a folder on a device; the host holds no more than one tensor of it as it was stored.

    Raises UserError where it cannot be read.
    """
    with torch.device("meta"):  # no drawing of weights that are read at once
        model = CausalLM(load_shape(folder)).to(dtype)
    read_weights(model.to_empty(device=device), folder)
    return model


def load_scalar(
    folder: Path, device: torch.device = CPU, dtype: torch.dtype = torch.float32, head_seed: int | None = None
) -> ScalarModel:
    """A reward or value model of a folder as `load_causal`; `head_seed` as in `read_weights`."""
    with torch.device("meta"):
        model = ScalarModel(load_shape(folder)).to(dtype)
    read_weights(model.to_empty(device=device), folder, head_seed)
    return model


@torch.no_grad()
def read_weights(model: nn.Module, folder: Path, head_seed: int | None = None) -> None:
    """Give a model the weights of a folder, where it is one rank's share of a laid-out model those alone.

    head_seed: ignore the saved head, be it a vocabulary or a reward head, and draw a random 1-d one.
    Raises UserError where the file cannot be read or its tensors are not those of the model.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            for name, parameter in model.named_parameters():
                local, where = share_of(parameter)
                if name == "v_head.weight" and head_seed is not None:
                    local.copy_(_random_head(parameter.shape[1], head_seed)[where])
                elif local.numel():
                    stored = file.get_slice(name)
                    if stored.get_shape() != list(parameter.shape):
                        raise UserError(
                            f"{path}: {name} has shape {stored.get_shape()}, by shape.json it has "
                            f"{list(parameter.shape)}; copy the folder anew"
                        )
                    local.copy_(stored[where])
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); run again what wrote it, or copy it anew") from None


def _random_head(hidden: int, seed: int) -> Tensor:
    return torch.randn(1, hidden, generator=torch.Generator().manual_seed(seed)) / (hidden + 1)


def full_weights(model: nn.Module) -> Weights:
    """Contiguous copies on the CPU, by name."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
