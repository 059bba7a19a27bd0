"""RoPE in a config.json: which scaling it names, by which numbers; and the numbers of a config.json themselves."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ilm_ray.model.shape import SCALINGS, RopeScaling, Shape

_LARGEST = 1 << 19  # bound on every size of a model: twice the largest vocabulary that there is
LONGEST = 1 << 31  # bound on its context, for which nothing is allocated


def size(name: str, value: Any, largest: int = _LARGEST) -> int:
    if not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name} is {value!r}, no number from 1 to {largest}")
    return value


def positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}, no positive number")
    return float(value)


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    rope: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope


def rope_kind(rope: Mapping[str, Any]) -> str:
    """The kind of RoPE scaling, `default` for none."""
    kind: str = rope.get("rope_type") or rope.get("type") or "default"
    return kind


def rope_scaling(config: Mapping[str, Any], context: int, head_dim: int) -> RopeScaling | None:
    rope = rope_of(config)
    kind = rope_kind(rope)
    if kind not in SCALINGS:  # `unlike_ours` names those that there are besides
        return None
    if kind == "dynamic" and head_dim == 2:
        raise ValueError("RoPE of heads two wide cannot be scaled")
    original = size("original_max_position_embeddings", rope.get("original_max_position_embeddings", context), LONGEST)
    factor = rope["factor"]
    if factor is None and kind == "yarn":
        factor = context / original
    scaling = RopeScaling(kind, positive("factor", factor), {"linear": 0, "dynamic": context}.get(kind, original))
    if kind == "llama3":
        slow, fast = (positive(name, rope[name]) for name in ("low_freq_factor", "high_freq_factor"))
        if fast <= slow:
            raise ValueError(f"high_freq_factor is {fast}, no more than low_freq_factor")
        return replace(scaling, slow=slow, fast=fast)
    if kind == "yarn":
        fast, slow = (positive(n, rope.get(n) or usual) for n, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)))
        magnitude = positive("attention_factor", rope.get("attention_factor") or _magnitude(rope, scaling.factor))
        truncate = bool(rope.get("truncate", True))
        return replace(scaling, slow=slow, fast=fast, magnitude=magnitude, truncate=truncate)
    return scaling


def _magnitude(rope: Mapping[str, Any], factor: float) -> float:
    """YaRN's usual magnitude of cosines and sines (arXiv 2309.00071, equation 22), or that by DeepSeek's two keys."""

    def by(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    part, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
    return by(part) / by(all_dims) if part and all_dims else by(1.0)


def rope_config(shape: Shape) -> dict[str, Any]:
    scaling = shape.rope_scaling
    base: dict[str, Any] = {"rope_theta": shape.rope_base}
    if scaling is None:
        return {**base, "rope_parameters": {"rope_type": "default", **base}}
    more: dict[str, Any] = {"factor": scaling.factor}
    if scaling.kind == "llama3":
        more |= {"low_freq_factor": scaling.slow, "high_freq_factor": scaling.fast}
    if scaling.kind == "yarn":
        more |= {"beta_fast": scaling.fast, "beta_slow": scaling.slow}
        more |= {} if scaling.truncate else {"truncate": False}
        if scaling.magnitude != _magnitude({}, scaling.factor):
            more |= {"attention_factor": scaling.magnitude}
    if scaling.kind in ("llama3", "yarn"):
        more |= {"original_max_position_embeddings": scaling.original}
    # Two keys, no more, for dynamic: InternLM2's released code refuses another number. Transformers before 5 reads it.
    name = "type" if scaling.kind in ("dynamic", "linear") else "rope_type"
    return {
        **base,
        "rope_parameters": {"rope_type": scaling.kind, **base, **more},
        "rope_scaling": {name: scaling.kind, **more},
    }
