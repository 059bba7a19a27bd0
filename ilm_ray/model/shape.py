"""The size of a model: what plans and settings need to know of it, without torch."""

from dataclasses import dataclass


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

    @property
    def heads(self) -> int:
        return self.kv_heads * self.queries_per_kv
