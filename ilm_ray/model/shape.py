"""The size of a model, for plans and settings, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

OLD_CONTEXT = 32_768  # tokens that models are taken to know whose folder is older than `Shape.context`


SCALINGS = ("linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True)
class RopeScaling:
    """The scaling of RoPE beyond the positions that a model was trained on.

    kind: `rope_type` of Hugging Face's config.json, see `rotary.frequencies`. factor: by how much. original: tokens of
    the window before scaling; for dynamic those up to which nothing is scaled, for linear 0. slow, fast (yarn,
    llama3): frequencies that turn less than `slow` times in the original window are scaled, more than `fast` times are
    not. magnitude: of cosines and sines (yarn). truncate: whether the borders between those are whole numbers (yarn).
    """

    kind: str
    factor: float
    original: int
    slow: float = 1.0
    fast: float = 32.0
    magnitude: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Shape:
    """Size and features of a dense model; everything needed to build it and to read its weights."""

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
    tied: bool = False  # the embedding is the head's matrix too
    qkv_bias: bool = False
    out_bias: bool = False  # of attention's output
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head's query and key, before RoPE
    family: str = ""  # `model_type` of the checkpoint that it came from (`families`), "" for our own

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
        """`max_position_embeddings`: tokens up to which dynamic scaling changes nothing; the context elsewhere."""
        scaling = self.rope_scaling
        return scaling.original if scaling is not None and scaling.kind == "dynamic" else self.context

    def stretches(self, length: int) -> bool:
        """Whether RoPE depends on a document's length where one has `length` tokens."""
        return self.rope_scaling is not None and self.rope_scaling.kind == "dynamic" and length > self.window

    def trained_in(self, context: int) -> "Shape":
        """The shape behind a training in windows of `context` tokens. Shorter windows take nothing away."""
        return replace(self, context=max(self.context, context))
