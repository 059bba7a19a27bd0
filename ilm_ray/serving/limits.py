"""Limits of a model by its own files: the positions that it knows, the ranks that may share it. Reads JSON alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError

CACHE_CONTEXT = 4096  # tokens that a server takes at once by default on a CPU, whose cache is small


@dataclass(frozen=True)
class Limits:
    """Limits of a model in one of Hugging Face's forms.

    window: tokens up to which it was trained; rope: parameters of its RoPE with `rope_type`; heads: of queries.
    """

    window: int
    rope: dict[str, Any]
    heads: int


def read_limits(folder: Path) -> Limits:
    """The limits by a folder's config.json. Raises UserError where it does not say them."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
        kind = rope.pop("type", None) or "default"
        rope = {"rope_type": kind, "rope_theta": config.get("rope_theta", 10_000.0)} | rope
        return Limits(int(config["max_position_embeddings"]), rope, int(config["num_attention_heads"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not describe a language model ({type(error).__name__}: {error}); export it anew"
        ) from None


def known_context(model: Path) -> int | None:
    """Tokens that a stage of a run, its `model`, or an exported folder was trained on; None where it does not say."""
    for path, name in (
        (model / "shape.json", "context"),
        (model / "model" / "shape.json", "context"),
        (model / "config.json", "max_position_embeddings"),
    ):
        if path.is_file():
            try:
                return int(json.loads(path.read_text(encoding="utf-8"))[name])
            except (OSError, ValueError, TypeError, LookupError):
                return None
    return None


def context_of(wanted: int | None, setting: str, limits: Limits, on_gpu: bool) -> tuple[int, dict[str, Any]]:
    """(tokens of prompt and answer together, changes to config.json for vLLM).

    wanted: None for the model's own, on a CPU at most CACHE_CONTEXT. Raises UserError where `wanted` lies beyond the
    context of the model's training and its RoPE is not scaled.
    """
    if wanted is None:
        return (limits.window if on_gpu else min(limits.window, CACHE_CONTEXT)), {}
    kind = limits.rope["rope_type"]
    if wanted <= limits.window or kind not in ("default", "dynamic"):  # vLLM knows how far other kinds reach
        return wanted, {}
    if kind == "default":
        raise UserError(
            f"{setting}={wanted} lies beyond the {limits.window} tokens that the model was trained on, and its "
            f"config.json names no RoPE scaling; set at most {setting}={limits.window}"
        )
    # vLLM computes one table of angles for all lengths. Left as it is, that table ends with the window; told both
    # lengths it is that of a document of `wanted` tokens (its DynamicNTKScalingRotaryEmbedding).
    rope = limits.rope | {"max_trained_positions": limits.window}
    return wanted, {"max_position_embeddings": wanted, "rope_parameters": rope}
