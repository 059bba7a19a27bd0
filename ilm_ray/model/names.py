"""Names of tensors in LLaMA-like checkpoints, with q, k and v in the place of the fused `wqkv`."""

import re

import torch
from torch import Tensor

from ilm_ray.model.shape import Shape

Weights = dict[str, Tensor]
_RENAMED = {
    "attention.wo": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "model.tok_embeddings": "model.embed_tokens",
    "output.weight": "lm_head.weight",
    "v_head.weight": "score.weight",
}
_QKV = re.compile(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)")


def split_wqkv(wqkv: Tensor, shape: Shape) -> tuple[Tensor, ...]:
    """Fused rows -> separate q, k, v. wqkv: ((heads + 2 kv_heads) * head_dim, hidden), or as many biases."""
    grouped = wqkv.view(shape.kv_heads, shape.queries_per_kv + 2, shape.head_dim, *wqkv.shape[1:])
    return tuple(t.reshape(-1, *wqkv.shape[1:]).contiguous() for t in (grouped[:, :-2], grouped[:, -2], grouped[:, -1]))


def fuse_wqkv(*qkv: Tensor, shape: Shape) -> Tensor:
    """The inverse of `split_wqkv`."""
    rest = qkv[0].shape[1:]
    return torch.cat([t.view(shape.kv_heads, -1, shape.head_dim, *rest) for t in qkv], dim=1).reshape(-1, *rest)


def llama_names(name: str) -> list[str]:
    """LLaMA's names for a tensor of ours: of q, k and v for the fused one, else one name."""
    if "attention.wqkv." in name:
        return [name.replace("attention.wqkv", f"self_attn.{letter}_proj") for letter in "qkv"]
    for ours, theirs in _RENAMED.items():
        if ours in name:
            return [name.replace(ours, theirs)]
    return [name]


def to_llama(weights: Weights, shape: Shape) -> Weights:
    """Our names and fused rows -> LLaMA's names and separate q, k, v."""
    out: Weights = {}
    for name, tensor in weights.items():
        names = llama_names(name)
        parts = split_wqkv(tensor, shape) if len(names) > 1 else (tensor.contiguous(),)
        out |= zip(names, parts, strict=True)
    return out


def from_llama(weights: Weights, shape: Shape) -> Weights:
    """The inverse of `to_llama`."""
    out: Weights = {}
    for name, tensor in weights.items():
        if (qkv := _QKV.fullmatch(name)) is None:
            ours = next((name.replace(theirs, ours) for ours, theirs in _RENAMED.items() if theirs in name), name)
            out[ours] = tensor
        elif qkv[2] == "q":
            parts = (weights[f"{qkv[1]}self_attn.{letter}_proj.{qkv[3]}"] for letter in "qkv")
            out[f"{qkv[1]}attention.wqkv.{qkv[3]}"] = fuse_wqkv(*parts, shape=shape)
    return out


def to_engine(weights: Weights, shape: Shape) -> Weights:
    """As `to_llama`, with a tied matrix under the head's name too: see `families.served_config`."""
    out = to_llama(weights, shape)
    if shape.tied and "model.embed_tokens.weight" in out:
        out["lm_head.weight"] = out["model.embed_tokens.weight"]
    return out


def from_engine(weights: Weights, shape: Shape) -> Weights:
    """The inverse of `to_engine`."""
    return from_llama({n: t for n, t in weights.items() if not (shape.tied and n == "lm_head.weight")}, shape)
