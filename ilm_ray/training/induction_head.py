"""Initial weights with which a small transformer repeats text that it has read: an induction head.

A segment S1 helps S2 where S2 repeats parts of S1. A model learns to look back (Olsson et al. 2022, arXiv 2209.11895:
one head copies the previous token to each place, a second finds the places whose previous token is the present one, and
predicts the token there), but from random weights only after many times the tokens that a scorer is trained on. So the
scorer starts with both heads; training learns how far to trust them, and everything else.
"""

import math
from typing import cast

import torch
from torch import Tensor

from ilm_ray.model.internlm2 import Attention, Block, CausalLM, initialize

# With it the slow half of a head's rotations hardly turn within any segment, and contents are compared by them.
ROPE_BASE = 1e10
_CONSTANTS = 8  # dimensions with the same value for all tokens: what a head can attend by position with
_SHARP = 16.0  # logit of the place before, above the places around it
_MATCH = 14.0  # logit of a place whose token before is the present one


def width(hidden: int) -> int:
    """Dimensions of each of three parts of the hidden state: the next token's, the present one's, the one before."""
    return (hidden - _CONSTANTS) // 6 * 2


def initialize_copying(model: CausalLM, seed: int) -> None:
    """Random weights as ever (`initialize`), and in the first two layers the two heads, each the first of its layer."""
    initialize(model, seed)
    shape, part = model.shape, width(model.shape.hidden)
    following, present, before = (torch.arange(at * part, (at + 1) * part) for at in range(3))
    constant = torch.arange(3 * part, shape.hidden)
    embeddings = model.model.tok_embeddings.weight
    code = torch.randn(shape.vocab_size, part, generator=torch.Generator().manual_seed(seed + 1))
    code *= math.sqrt(part) / code.norm(dim=-1, keepdim=True)  # of one length: norms then scale all tokens alike
    with torch.no_grad():
        embeddings[:, present], embeddings[:, constant] = code, 1.0
        head = model.output.weight
        assert head is not None  # it is not tied
        head[:, following] = 8 / part * code
        # RMSNorm divides by these before the first and the second layer.
        first = math.sqrt((part + len(constant)) / shape.hidden)
        second = math.sqrt((2 * part + len(constant)) / shape.hidden)
        lower, upper = (cast(Block, model.model.layers[name]).attention for name in ("0", "1"))
        _token_before(lower, constant, first)
        _copy(lower, present, before, first)
        _same_token_before(upper, present, before, second)
        _copy(upper, present, following, second)


def _token_before(attention: Attention, constant: Tensor, norm: float) -> None:
    """The score of a place falls with its distance from the one before: a sum of cosines, largest one place back."""
    query, key, _ = _first_head(attention)
    half = attention.shape.head_dim // 2
    fast = torch.arange(half // 4)  # the rotations that tell one place from the next
    turns = attention.shape.rope_base ** (-fast / half)
    size = math.sqrt(_SHARP * math.sqrt(attention.shape.head_dim)) * norm / len(constant)
    query.zero_(), key.zero_()
    query[fast[:, None], constant] = size
    key[fast[:, None], constant] = size * turns.cos()[:, None]
    key[fast[:, None] + half, constant] = size * turns.sin()[:, None]


def _same_token_before(attention: Attention, present: Tensor, before: Tensor, norm: float) -> None:
    """The score of a place is the likeness of the token before it to the present one, at any distance."""
    query, key, _ = _first_head(attention)
    half, part = attention.shape.head_dim // 2, len(present)
    slow = torch.arange(half - part // 2, half)
    rows = torch.cat([slow, slow + half])
    size = math.sqrt(_MATCH * math.sqrt(attention.shape.head_dim) / part) * norm
    query.zero_(), key.zero_()
    query[rows, present] = key[rows, before] = size


def _copy(attention: Attention, source: Tensor, target: Tensor, norm: float) -> None:
    """The first head copies part `source` of the hidden state where it attends to part `target`."""
    _, _, value = _first_head(attention)
    value.zero_()
    value[torch.arange(len(source)), source] = 1.0
    out = attention.wo.weight[:, : attention.shape.head_dim]
    out.zero_()
    out[target, torch.arange(len(target))] = norm


def _first_head(attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the first query head, and of its key and value, in the fused matrix."""
    shape = attention.shape
    rows = attention.wqkv.weight.view(shape.kv_heads, shape.queries_per_kv + 2, shape.head_dim, -1)[0]
    return rows[0], rows[-2], rows[-1]
