"""Matrix products of blocks in 8-bit floating point (arXiv 2209.05433), by torchao: an option that is off."""

import importlib.util
from typing import Any

import torch
from torch import nn

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, ScalarModel

CAPABILITY = (8, 9)  # the first cards with such products: Ada (RTX 4090, L40S), then Hopper


def require_float8(layout: Layout, precision: str, device: torch.device) -> None:
    """Raise UserError where `training.fp8` cannot be had."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise UserError(f"training.fp8=true needs a GPU of compute capability 8.9, this is {name}; set it false")
    if precision != "bf16":
        raise UserError("training.fp8=true needs training.precision=bf16; set one of the two")
    if layout.tp > 1:
        raise UserError("training.fp8=true with layout.tp above 1 cannot be had: rows are split; set tp=1")
    if importlib.util.find_spec("torchao") is None:
        raise UserError("training.fp8=true needs torchao, which is not installed: pip install torchao, or set it false")


def use_float8(model: CausalLM | ScalarModel) -> None:
    """Let the linear layers of all blocks multiply in 8 bits, a scale a row, in place. Master weights stay."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def is_in_block(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and "layers." in name

    config: Any = Float8LinearConfig.from_recipe_name("rowwise")
    convert_to_float8_training(model, config=config, module_filter_fn=is_in_block)
