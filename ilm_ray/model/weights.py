"""Weights in and out of the Hugging Face formats: InternLM2's own and its loss-free LLaMA twin. safetensors only."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ilm_ray.base.errors import UserError
from ilm_ray.model.initial import share_of
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape
from ilm_ray.model.weights_file import WeightsFile

Weights = dict[str, Tensor]
_RENAMED = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "model.tok_embeddings": "model.embed_tokens",
    "output.weight": "lm_head.weight",
}


def split_wqkv(wqkv: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Fused rows -> separate q, k, v matrices. wqkv: ((heads + 2 kv_heads) * head_dim, hidden)."""
    grouped = wqkv.view(shape.kv_heads, shape.queries_per_kv + 2, shape.head_dim, -1)
    q, k, v = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
    return tuple(t.reshape(-1, wqkv.shape[-1]).contiguous() for t in (q, k, v))  # type: ignore[return-value]


def fuse_wqkv(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """The inverse of `split_wqkv`."""
    width = q.shape[-1]
    grouped = [
        q.view(shape.kv_heads, shape.queries_per_kv, shape.head_dim, width),
        k.view(shape.kv_heads, 1, shape.head_dim, width),
        v.view(shape.kv_heads, 1, shape.head_dim, width),
    ]
    return torch.cat(grouped, dim=1).reshape(-1, width).contiguous()


def to_llama(weights: Weights, shape: Shape) -> Weights:
    """InternLM2 names and fused rows -> LlamaForCausalLM names and separate q, k, v."""
    out: Weights = {}
    for name, tensor in weights.items():
        if name.endswith("attention.wqkv.weight"):
            prefix = name.removesuffix("attention.wqkv.weight")
            for letter, part in zip("qkv", split_wqkv(tensor, shape), strict=True):
                out[f"{prefix}self_attn.{letter}_proj.weight"] = part
        else:
            for ours, theirs in _RENAMED.items():
                name = name.replace(ours, theirs) if ours in name else name
            out[name] = tensor.contiguous()
    return out


def from_llama(weights: Weights, shape: Shape) -> Weights:
    """The inverse of `to_llama`."""
    out: Weights = {}
    for name, tensor in weights.items():
        if name.endswith("self_attn.q_proj.weight"):
            prefix = name.removesuffix("self_attn.q_proj.weight")
            q, k, v = (weights[f"{prefix}self_attn.{letter}_proj.weight"] for letter in "qkv")
            out[f"{prefix}attention.wqkv.weight"] = fuse_wqkv(q, k, v, shape)
        elif not name.endswith(("k_proj.weight", "v_proj.weight")):
            for ours, theirs in _RENAMED.items():
                name = name.replace(theirs, ours) if theirs in name else name
            out[name] = tensor
    return out


def llama_config(shape: Shape, **extra: Any) -> dict[str, Any]:
    """config.json of the LLaMA twin. It claims no more positions than the weights were trained on."""
    scaling = shape.rope_scaling
    scaled: dict[str, Any] = {} if scaling is None else {"factor": scaling.factor}
    # Two keys, no more: the released InternLM2 code refuses another number; Transformers before 5 reads it too.
    older = {} if scaling is None else {"rope_scaling": {"type": scaling.kind, **scaled}}
    rope_type = "default" if scaling is None else scaling.kind
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp_hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_base,
        "rope_parameters": {"rope_type": rope_type, "rope_theta": shape.rope_base, **scaled},
        **older,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "max_position_embeddings": shape.window,
        "torch_dtype": "float32",
        **extra,
    }


def save_llama(model: CausalLM, folder: Path, **extra: Any) -> None:
    """A folder that Transformers and vLLM read with no remote code. `extra`: more keys of config.json (token ids)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_llama(full_weights(model), model.shape), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(llama_config(model.shape, **extra), indent=1))


def save_internlm2(model: CausalLM | ScalarModel, folder: Path, about: Mapping[str, str] | None = None) -> None:
    """Write InternLM2's own format: `model.safetensors` with the released names, and `shape.json`.

    about: what the header of the weights says beside their names, see `read_about`.
    """
    weights = full_weights(model)
    with new_internlm2(folder, model.shape, weights, about or {}) as out:
        for name in out.order:
            out.write(name, weights[name])


@contextmanager
def new_internlm2(
    folder: Path, shape: Shape, like: Mapping[str, Tensor], about: Mapping[str, str]
) -> Iterator[WeightsFile]:
    """As `save_internlm2`, for a caller who writes tensor after tensor. like: tensors of the right shapes and types."""
    folder.mkdir(parents=True, exist_ok=True)
    with WeightsFile(folder / "model.safetensors", like, {"format": "pt", **about}) as out:
        yield out
        (folder / "shape.json").write_text(json.dumps(asdict(shape), indent=1))


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
