"""The dense families that our model can be: their names, and the switches in their config.json.

A new family is a row of `FAMILIES`. `shape_of` reads a config.json, `config_of` writes one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ilm_ray.model.rope_config import LONGEST, positive, rope_config, rope_kind, rope_of, rope_scaling, size
from ilm_ray.model.shape import OLD_CONTEXT, SCALINGS, Shape


@dataclass(frozen=True)
class Family:
    """A `model_type`. qkv_bias, out_bias, mlp_bias: the key of config.json that turns the bias on, or always so.

    scalar: the architecture of its reward models that we write; all are read. fused: it has InternLM2's own names of
    tensors, else LLaMA's. silent: the meaning of an absent key where it differs from LLaMA's.
    """

    model_type: str
    prefix: str  # of its architectures
    qkv_bias: str | bool = False
    out_bias: str | bool = False
    mlp_bias: str | bool = False
    qk_norm: bool = False
    fused: bool = False
    scalar: str = "ForSequenceClassification"
    silent: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def architecture(self, scalar: bool) -> str:
        return self.prefix + (self.scalar if scalar else "ForCausalLM")


_ALL = (
    Family("internlm2", "InternLM2", qkv_bias="bias", out_bias="bias", fused=True, scalar="ForRewardModel"),
    Family("internlm3", "InternLM3", qkv_bias="qkv_bias", out_bias="bias", mlp_bias="bias"),
    Family("llama", "Llama", qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias"),
    Family("mistral", "Mistral", silent=MappingProxyType({"sliding_window": 4096})),
    Family("qwen2", "Qwen2", qkv_bias=True),
    Family(
        "qwen3", "Qwen3", qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=True,
        silent=MappingProxyType({"head_dim": 128}),
    ),
)  # fmt: skip
FAMILIES = {family.model_type: family for family in _ALL}
TWIN = FAMILIES["llama"]  # of a model of our own: Transformers and vLLM read it with no code from the folder


def family_of(architecture: str) -> tuple[Family, bool] | None:
    """The family of an architecture, and whether that is a reward model's; None for others."""
    for family in _ALL:
        if architecture == family.architecture(False):
            return family, False
        if architecture in (family.architecture(True), f"{family.prefix}ForSequenceClassification"):
            return family, True
    return None


def config_of(shape: Shape, family: Family | None = None, scalar: bool = False, **extra: Any) -> dict[str, Any]:
    """config.json of a model; family: its own by default, LLaMA where it has none.

    It claims no more positions than the weights were trained on. Features that the family lacks are left out: see
    `lacks`. extra: more keys (token ids).
    """
    family = family or FAMILIES.get(shape.family, TWIN)
    switches = [(family.qkv_bias, shape.qkv_bias), (family.out_bias, shape.out_bias), (family.mlp_bias, shape.mlp_bias)]
    return {
        "architectures": [family.architecture(scalar)],
        "model_type": family.model_type,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp_hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.norm_eps,
        **rope_config(shape),
        "hidden_act": "silu",
        **{key: value for key, value in switches if isinstance(key, str)},
        **({"sliding_window": None} if "sliding_window" in family.silent else {}),
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.window,
        **({"num_labels": 1} if scalar else {}),
        "torch_dtype": "float32",
        **extra,
    }


def served_config(shape: Shape) -> dict[str, Any]:
    """config.json for an engine that reads LLaMA's names of tensors and no code: the family's own where it has such.

    A tied head is said to be one of its own: vLLM's reload does not renew the copy that its kernels keep of a tied one.
    """
    shape = replace(shape, tied=False)
    if not shape.family.startswith("internlm"):
        return config_of(shape)
    apart = {} if shape.qkv_bias == shape.out_bias else {"qkv_bias": shape.qkv_bias}
    return config_of(shape, TWIN, attention_bias=shape.out_bias, **apart)


def lacks(shape: Shape, family: Family) -> bool:
    """Whether a config.json of `family` cannot say all that `shape` does."""
    again = shape_of(config_of(shape, family), family)
    return again != replace(shape, family=again.family, init_std=again.init_std, context=again.context)


def shape_of(config: Mapping[str, Any], family: Family) -> Shape:
    """The shape by config.json. Raises LookupError, TypeError or ValueError where a size is missing or impossible."""
    config = {**family.silent, **config}
    hidden, heads = (size(name, config[name]) for name in ("hidden_size", "num_attention_heads"))
    kv_heads = size("num_key_value_heads", config.get("num_key_value_heads") or heads)
    head_dim = size("head_dim", config.get("head_dim") or hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(f"{heads} heads in {kv_heads} groups, each {head_dim} wide, cannot be")
    context = size("max_position_embeddings", config.get("max_position_embeddings", OLD_CONTEXT), LONGEST)

    def switch(key: str | bool) -> bool:
        value = key if isinstance(key, bool) else config.get(key) or False
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value!r}, neither true nor false")
        return value

    rope = config.get("rope_parameters") or config
    return Shape(
        vocab_size=size("vocab_size", config["vocab_size"]),
        layers=size("num_hidden_layers", config["num_hidden_layers"]),
        hidden=hidden,
        kv_heads=kv_heads,
        queries_per_kv=heads // kv_heads,
        head_dim=head_dim,
        mlp_hidden=size("intermediate_size", config["intermediate_size"]),
        norm_eps=positive("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_base=positive("rope_theta", rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        context=context,
        rope_scaling=rope_scaling(config, context, head_dim),
        tied=switch("tie_word_embeddings"),
        qkv_bias=switch(family.qkv_bias),
        out_bias=switch(family.out_bias),
        mlp_bias=switch(family.mlp_bias),
        qk_norm=family.qk_norm,
        family=family.model_type,
    )


def unlike_ours(config: Mapping[str, Any], family: Family, scalar: bool) -> str | None:
    """The first feature that our model lacks, in words; None where there is none."""
    config = {**family.silent, **config}
    if family.model_type != "llama" and not family.mlp_bias and config.get("mlp_bias"):
        return "mlp_bias is set"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {config['hidden_act']}"
    if config.get("quantization_config"):
        return "weights are quantised"
    rope = rope_of(config)
    kind = rope_kind(rope)
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "RoPE differs from layer to layer"
    for place in (config, rope):
        if place.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
            return f"partial_rotary_factor is {place['partial_rotary_factor']}"
    if "alpha" in rope:  # Hunyuan's, which scales at every length
        return f"RoPE is scaled ({kind} by alpha)"
    if kind not in ("default", *SCALINGS):
        return f"RoPE is scaled ({kind})"
    if (window := _binding_window(config, family)) is not None:
        return f"a sliding window of {window} tokens binds in a context of {config.get('max_position_embeddings')}"
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    return f"num_labels is {labels}, a reward model has 1" if scalar and labels != 1 else None


def _binding_window(config: Mapping[str, Any], family: Family) -> int | None:
    """Tokens of a sliding window that is shorter than the context and that some layer uses."""
    window, layers = config.get("sliding_window"), config.get("layer_types")
    if window is None or window >= config.get("max_position_embeddings", OLD_CONTEXT):
        return None
    if layers is not None:
        slides = any(layer != "full_attention" for layer in layers)
    elif config.get("use_sliding_window"):  # Qwen's
        slides = config.get("max_window_layers", 28) < config.get("num_hidden_layers", 0)
    else:
        slides = "sliding_window" in family.silent
    return window if slides else None
