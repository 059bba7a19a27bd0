"""InternLM2 (report section 2.2) and its dense relatives: pre-norm RMSNorm, SwiGLU, RoPE, grouped-query attention with
a fused `wqkv`. Where they differ (biases, QK norm, a head tied to the embedding), `Shape` says so.

Everything works on packed tokens: a batch is one row of tokens with document borders (`cu_seqlens`), never a padded
matrix. Names are those of the released checkpoints.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ilm_ray.base.errors import UserError
from ilm_ray.model.attention import Varlen, attention
from ilm_ray.model.initial import draw_normal
from ilm_ray.model.loss import logits_of, summed_loss, token_losses
from ilm_ray.model.pointwise import RMSNorm, swiglu
from ilm_ray.model.rotary import rotary_tables, split_rotated
from ilm_ray.model.shape import Shape

Reduction = Literal["none", "sum"]


@dataclass
class Packed:
    """Packed token sequences: tokens (n), positions (n) from 0 in each document, cu_seqlens int32 (documents + 1)."""

    tokens: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, sequences: list[list[int]]) -> "Packed":
        """Pack whole sequences one after the other."""
        lengths = torch.tensor([len(s) for s in sequences])
        return cls(
            torch.tensor([t for s in sequences for t in s]),
            torch.cat([torch.arange(n) for n in lengths.tolist()]),
            F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
            int(lengths.max()),
        )

    def to(self, device: torch.device) -> "Packed":
        return Packed(self.tokens.to(device), self.positions.to(device), self.cu_seqlens.to(device), self.max_seqlen)

    @property
    def borders(self) -> tuple[Any, ...]:
        """The last arguments of `Attention.attend`: which rows attend to each other."""
        return self.cu_seqlens, self.max_seqlen


@dataclass(frozen=True)
class Documents:
    """A batch as every layer needs it: rotary tables (tokens, head_dim / 2) and the borders of documents.

    A plain object, so that FSDP2's mixed precision, which casts tensors among a block's arguments, leaves it alone.
    """

    cos: Tensor
    sin: Tensor
    borders: tuple[Any, ...]  # see `Packed.borders`

    @classmethod
    def of(cls, batch: Packed, shape: Shape, dtype: torch.dtype) -> "Documents":
        lengths = _lengths(batch, shape) if shape.stretches(batch.max_seqlen) else None
        cos, sin = rotary_tables(batch.positions, shape, dtype, lengths)
        return cls(cos, sin, batch.borders)


def _lengths(batch: Packed, shape: Shape) -> Tensor:
    """For each token the number of its document's tokens."""
    counts = batch.cu_seqlens.diff().long()
    if int(batch.cu_seqlens[-1]) != len(batch.positions):
        raise UserError(
            f"documents of {batch.max_seqlen} tokens in slices: RoPE is scaled beyond {shape.window} tokens by the "
            f"length of whole documents; set training.layout.cp=1 or a context of at most {shape.window}"
        )
    return counts.repeat_interleave(counts, output_size=len(batch.positions))


class Attention(nn.Module):
    """Grouped-query attention; rows of `wqkv` are interleaved per KV group: its queries, its key, its value."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.heads * shape.head_dim
        self.wqkv = nn.Linear(shape.hidden, width + 2 * shape.kv_heads * shape.head_dim, bias=shape.qkv_bias)
        self.wo = nn.Linear(width, shape.hidden, bias=shape.out_bias)
        if shape.qk_norm:
            self.q_norm = RMSNorm(shape.head_dim, eps=shape.norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, eps=shape.norm_eps)
        # Where rows of a batch lie on several ranks, an exchange between them is put around it.
        self.attend: Callable[..., Tensor] = attention

    def forward(self, x: Tensor, documents: Documents) -> Tensor:
        q, k, v = self.project(x, documents.cos, documents.sin)
        out = self.attend(q, k, v, *documents.borders)
        return self.wo(out.flatten(1))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (tokens, heads, head_dim) and keys, values (tokens, kv_heads, head_dim) of x's rows."""
        s = self.shape
        # -1 lets the local number of groups follow from the weight: a tensor-parallel shard is a plain split.
        qkv = self.wqkv(x).view(len(x), -1, s.queries_per_kv + 2, s.head_dim)
        if s.qk_norm:
            q, k, v = qkv.split((s.queries_per_kv, 1, 1), dim=2)
            qkv = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=2)
        return split_rotated(qkv, cos, sin)


class FeedForward(nn.Module):
    """SwiGLU: w1 gate, w3 up, w2 down."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.hidden, shape.mlp_hidden, bias=shape.mlp_bias)
        self.w3 = nn.Linear(shape.hidden, shape.mlp_hidden, bias=shape.mlp_bias)
        self.w2 = nn.Linear(shape.mlp_hidden, shape.hidden, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(swiglu(self.w1(x), self.w3(x)))


class Block(nn.Module):
    """A layer: attention, then SwiGLU, each behind its norm and added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor, documents: Documents) -> Tensor:
        x = x + self.attention(self.attention_norm(x), documents)
        return x + self.feed_forward(self.ffn_norm(x))


class Backbone(nn.Module):
    """Embedding, blocks, final norm: tokens -> hidden states (tokens, hidden)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.hidden)
        # A dict keyed by the global layer number: names survive when a pipeline stage keeps some of them.
        self.layers = nn.ModuleDict({str(i): Block(shape) for i in range(shape.layers)})
        self.norm = RMSNorm(shape.hidden, eps=shape.norm_eps)

    def forward(self, batch: Packed) -> Tensor:
        x = self.tok_embeddings(batch.tokens)
        documents = Documents.of(batch, self.shape, x.dtype)
        for block in self.layers.values():
            x = block(x, documents)
        return self.norm(x)


class Head(nn.Module):
    """Hidden states (tokens, hidden) -> logits (tokens, vocabulary), or losses where labels are given.

    Losses are computed in its own forward: FSDP2 gathers a module's parameters when that is called. A tied head has no
    weight of its own; it is called with the embedding's.
    """

    weight: nn.Parameter | None

    def __init__(self, shape: Shape, loss_chunk: int) -> None:
        super().__init__()
        linear = None if shape.tied else nn.Linear(shape.hidden, shape.vocab_size, bias=False)
        self.register_parameter("weight", None if linear is None else nn.Parameter(linear.weight))
        self.loss_chunk = loss_chunk

    def forward(
        self, input: Tensor, labels: Tensor | None = None, reduction: Reduction = "none", tied: Tensor | None = None
    ) -> Tensor:
        weight = self.weight if tied is None else tied
        assert weight is not None
        if labels is None:
            return logits_of(input, weight)
        losses = token_losses if reduction == "none" else summed_loss
        return losses(input, weight, labels, self.loss_chunk)


class CausalLM(nn.Module):
    """A language model: InternLM2ForCausalLM, LlamaForCausalLM and their like."""

    def __init__(self, shape: Shape, loss_chunk: int = 4096) -> None:
        super().__init__()
        self.model = Backbone(shape)
        self.output = Head(shape, loss_chunk)

    @property
    def shape(self) -> Shape:
        return self.model.shape

    def forward(self, batch: Packed, labels: Tensor | None = None, reduction: Reduction = "none") -> Tensor:
        """Logits (tokens, vocabulary); with labels (tokens), each token's loss in fp32, 0 where the label is -100.

        The loss of label[i] given tokens[..i] is minus its log-probability. With labels the logits never exist whole.
        reduction=sum gives the sum of the losses, for a third less work of the head in the backward.
        """
        return self.head(self.model(batch), labels, reduction)

    def head(self, hidden: Tensor, labels: Tensor | None = None, reduction: Reduction = "none") -> Tensor:
        """As the model, from the backbone's hidden states (tokens, hidden)."""
        return self.output(hidden, labels, reduction, self.model.tok_embeddings.weight if self.shape.tied else None)


class ScalarModel(nn.Module):
    """A backbone with a 1-d head: the reward model (read at one token) and the critic (read at every token)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Backbone(shape)
        self.v_head = nn.Linear(shape.hidden, 1, bias=False)

    @property
    def shape(self) -> Shape:
        return self.model.shape

    def forward(self, batch: Packed) -> Tensor:
        """One number per token: (tokens), fp32."""
        return self.v_head(self.model(batch)).squeeze(-1).float()


def use_kernel(model: CausalLM | ScalarModel, kernel: Varlen) -> None:
    """Let every block of `model` call `kernel` (`attention.varlen_kernel`) where it runs on CUDA, in place."""
    for module in model.modules():
        if isinstance(module, Attention) and module.attend is attention:
            module.attend = functools.partial(attention, kernel=kernel)


def initialize(model: CausalLM | ScalarModel, seed: int) -> None:
    """Normal weights; `wo` and `w2` are scaled down with depth, as in InternEvo's published configuration.

    Weights depend on the seed and on names alone: those of a layout's shares are those of the whole model.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        scale = 1.0
        if name.endswith(("wo.weight", "w2.weight")):
            layer = int(name.split("layers.")[1].split(".")[0])
            scale = 1 / math.sqrt(2 * (layer + 1))
        draw_normal(parameter, f"{seed}/{name}", model.shape.init_std * scale)
