"""Model folders for and from others: InternLM2's released format, which vLLM loads with its native classes, and its
loss-free LLaMA twin, which Transformers and vLLM load with no code from the folder. safetensors only.

Reward models: `InternLM2ForRewardModel`, and `LlamaForSequenceClassification` with one label. Both are to be read at
the appended reward token.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape
from ilm_ray.model.shape import OLD_CONTEXT, RopeScaling
from ilm_ray.model.weights import from_llama, full_weights, llama_config, to_llama

FORMATS = ("internlm2", "llama")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARD = "5GB"
_LARGEST = 1 << 19  # bound on every size of a model: twice the largest vocabulary that there is
_LONGEST = 1 << 31  # bound on its context, for which nothing is allocated

_CAUSAL = {"internlm2": "InternLM2ForCausalLM", "llama": "LlamaForCausalLM"}
_SCALAR = {"internlm2": "InternLM2ForRewardModel", "llama": "LlamaForSequenceClassification"}
_CONFIGURATION = '''"""The configuration class of InternLM2, which Transformers has not: config.json names this file."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"

    def __init__(self, bias=False, **kwargs):
        self.bias = bias
        super().__init__(**kwargs)
'''


def export_model(
    model: CausalLM | ScalarModel, folder: Path, weight_format: str, dtype: torch.dtype, ids: Mapping[str, Any]
) -> None:
    """Write config.json, generation_config.json and weights in shards of at most SHARD into `folder`.

    ids: the token ids that config.json names (`bos_token_id`, `eos_token_id`, ...).
    """
    weights = {name: tensor.to(dtype) for name, tensor in full_weights(model).items()}
    if weight_format == "llama":
        weights = to_llama(weights, model.shape)
        if isinstance(model, ScalarModel):
            weights["score.weight"] = weights.pop("v_head.weight")
    # With one group of heads q, k and v are views of one tensor, which safetensors does not write.
    weights = {n: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for n, t in weights.items()}
    config = _config(model, weight_format) | {"torch_dtype": str(dtype).removeprefix("torch."), **ids}
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, folder, max_shard_size=SHARD, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if weight_format == "internlm2":
        (folder / "configuration_internlm2.py").write_text(_CONFIGURATION, encoding="utf-8")
    if isinstance(model, CausalLM):
        (folder / "generation_config.json").write_text(json.dumps(dict(ids), indent=1), encoding="utf-8")


def import_model(folder: Path) -> CausalLM | ScalarModel:
    """The fp32 model of a folder in one of the two formats.

    Raises UserError where it is in neither, where our model lacks a feature of it (biases, other scalings of RoPE than
    `dynamic`, tied heads), or where tensors are missing, left over or of another size.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = config["architectures"][0]
        shape, wrong = _shape(config), _unlike_ours(config)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise UserError(
            f"{folder}/config.json does not describe an InternLM2 or LLaMA model ({type(error).__name__}: {error})"
        ) from None
    if architecture not in (*_CAUSAL.values(), *_SCALAR.values()):
        raise UserError(f"{folder}: architecture {architecture} is none of {[*_CAUSAL.values(), *_SCALAR.values()]}")
    if wrong:
        raise UserError(f"{folder}/config.json: {wrong}; ilm_ray's model has no such thing")
    weights = _read(folder)
    if architecture in (_CAUSAL["llama"], _SCALAR["llama"]):
        if "score.weight" in weights:
            weights["v_head.weight"] = weights.pop("score.weight")
        weights = _fused(weights, shape, folder)
    kind = ScalarModel if architecture in _SCALAR.values() else CausalLM
    if shape.layers > len(weights):
        raise UserError(f"{folder}: config.json names {shape.layers} layers, the files hold {len(weights)} tensors")
    with torch.device("meta"):  # nothing is allocated before it is known to fit the files
        model = kind(shape)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if "rotary_emb" not in name}
    if differing := sorted(name for name in expected | shapes if expected.get(name) != shapes.get(name)):
        name = differing[0]
        raise UserError(
            f"{folder}: {len(differing)} tensors do not fit config.json, the first is {name}: "
            f"expected {expected.get(name)}, found {shapes.get(name)}"
        )
    model = kind(shape)
    model.load_state_dict({name: weights[name].float() for name in expected})
    return model


def _config(model: CausalLM | ScalarModel, weight_format: str) -> dict[str, Any]:
    architecture = (_SCALAR if isinstance(model, ScalarModel) else _CAUSAL)[weight_format]
    config = llama_config(model.shape, architectures=[architecture])
    if weight_format == "internlm2":
        del config["attention_bias"], config["mlp_bias"]
        config |= {
            "model_type": "internlm2",
            "bias": False,
            "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        }
    elif isinstance(model, ScalarModel):
        config |= {"num_labels": 1}
    return config


def _shape(config: Mapping[str, Any]) -> Shape:
    """The shape by config.json. Raises LookupError, TypeError or ValueError where a size is missing or impossible."""

    def size(name: str, value: Any, largest: int = _LARGEST) -> int:
        if not isinstance(value, int) or not 1 <= value <= largest:
            raise ValueError(f"{name} is {value!r}, no number from 1 to {largest}")
        return value

    def positive(name: str, value: Any) -> float:
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}, no positive number")
        return float(value)

    hidden, heads = (size(name, config[name]) for name in ("hidden_size", "num_attention_heads"))
    kv_heads = size("num_key_value_heads", config.get("num_key_value_heads") or heads)
    head_dim = size("head_dim", config.get("head_dim") or hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(f"{heads} heads in {kv_heads} groups, each {head_dim} wide, cannot be")
    rope = config.get("rope_parameters") or config
    context = size("max_position_embeddings", config.get("max_position_embeddings", OLD_CONTEXT), _LONGEST)
    kind, scaling = _rope_kind(config)
    if kind == "dynamic" and head_dim == 2:
        raise ValueError("RoPE of heads two wide cannot be scaled")
    return Shape(
        vocab_size=size("vocab_size", config["vocab_size"]),
        layers=size("num_hidden_layers", config["num_hidden_layers"]),
        hidden=hidden,
        kv_heads=kv_heads,
        queries_per_kv=heads // kv_heads,
        head_dim=head_dim,
        mlp_hidden=size("intermediate_size", config["intermediate_size"]),
        norm_eps=positive("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_base=positive("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        context=context,
        rope_scaling=RopeScaling(kind, positive("factor", scaling["factor"]), context) if kind == "dynamic" else None,
    )


def _rope_kind(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind of RoPE scaling that a config.json names, `default` for none, and its parameters."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return scaling.get("rope_type") or scaling.get("type") or "default", scaling


def _unlike_ours(config: Mapping[str, Any]) -> str | None:
    """The first feature that our model lacks, in words; None where there is none."""
    for name in ("bias", "attention_bias", "mlp_bias", "tie_word_embeddings"):
        if config.get(name):
            return f"{name} is set"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {config['hidden_act']}"
    kind, scaling = _rope_kind(config)
    if "alpha" in scaling:  # Hunyuan's, which scales at every length
        return f"RoPE is scaled ({kind} by alpha)"
    return None if kind in ("default", "dynamic") else f"RoPE is scaled ({kind})"


def _read(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file; weights in other forms are not read, convert them first")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            named = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index} cannot be read ({type(error).__name__}: {error}); copy it anew") from None
        if missing := sorted(named - {path.name for path in files}):
            raise UserError(f"{folder}: {missing[0]} is missing, which {index.name} names; copy it there")
        files = [path for path in files if path.name in named]
    weights: dict[str, Tensor] = {}
    for path in files:
        try:
            weights |= load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, OverflowError) as error:
            raise UserError(f"{path} cannot be read ({error}); copy it anew") from None
    return weights


def _fused(weights: dict[str, Tensor], shape: Shape, folder: Path) -> dict[str, Tensor]:
    try:
        return from_llama(weights, shape)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: q, k and v do not fit config.json ({error})") from None


def export_tokens(names: Mapping[str, int]) -> dict[str, Any]:
    """The ids of config.json from a tokenizer's special tokens: generation ends at a turn's end too."""
    return {
        "bos_token_id": names["<s>"],
        "eos_token_id": [names["</s>"], names["<|im_end|>"]],
        "pad_token_id": names["</s>"],
    }
