"""The size of a model: what plans and settings need to know of it, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OLD_CONTEXT = 32_768  # tokens that models are taken to know whose folder is older than `Shape.context`


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE goes on beyond the positions that a model was trained on.

    kind: `rope_type` of Hugging Face's config.json. "dynamic" is NTK scaling: the base grows with a document's length.
    factor: by how much. original: tokens up to which nothing is scaled.
    """

    kind: str
    factor: float
    original: int


@dataclass(frozen=True)
class Shape:
    """Size of a model; everything needed to build it and to read its weights."""

    vocab_size: int
    layers: int
    hidden: int
    kv_heads: int
    queries_per_kv: int
    head_dim: int
    mlp_hidden: int
    norm_eps: float = 1e-5
    rope_base: float = 50_000.0
    init_std: float = 0.02
    context: int = OLD_CONTEXT  # tokens of the longest windows that its weights were trained in
    rope_scaling: RopeScaling | None = None  # None: positions beyond the context are as they come

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Shape":
        """The shape that `dataclasses.asdict` gave, be it without the newer fields. Raises TypeError for others."""
        scaling = values.get("rope_scaling")
        return cls(**{**values, "rope_scaling": None if scaling is None else RopeScaling(**scaling)})

    @property
    def heads(self) -> int:
        return self.kv_heads * self.queries_per_kv

    @property
    def window(self) -> int:
        """Tokens up to which positions are turned as in training without scaling: `max_position_embeddings`."""
        return self.context if self.rope_scaling is None else self.rope_scaling.original

    def trained_in(self, context: int) -> "Shape":
        """The shape behind a training in windows of `context` tokens. Shorter windows take nothing away."""
        return replace(self, context=max(self.context, context))
