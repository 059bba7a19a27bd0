"""Activation checkpointing: the same gradients bit for bit, and exactly the memory that its definition leaves."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from ilm_ray.model.internlm2 import CausalLM, Documents, initialize
from ilm_ray.parallel.recompute import recompute_blocks
from tests.parallel.tracking import Tracker
from tests.parallel.training import SHAPE, window

How = Literal["none", "selective", "full"]


def _model(how: How, dtype: torch.dtype = torch.float64) -> CausalLM:
    model = CausalLM(SHAPE, loss_chunk=40).to(dtype)
    initialize(model, 3)
    recompute_blocks(model, how)
    return model


def _gradients(how: How, dtype: torch.dtype) -> dict[str, Tensor]:
    model = _model(how, dtype)
    batch, labels = window(0, [0, 1])
    model(batch, labels, "sum").backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_those_without_it_bit_for_bit(dtype: torch.dtype) -> None:
    expected = _gradients("none", dtype)
    for how in ("selective", "full"):
        found = _gradients(how, dtype)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items()), how


def _kept_by_block(how: How) -> int:
    """Bytes that a block's forward leaves until its backward, its input and its output not counted."""
    model = _model(how, torch.float32)
    block = model.model.layers["1"]
    batch, _ = window(0, range(8))
    documents = Documents.of(batch, SHAPE, torch.float32)
    x = torch.randn(len(batch.tokens), SHAPE.hidden).requires_grad_()
    with Tracker() as tracker:
        for known in (x, documents.cos, documents.sin, documents.cu_seqlens, *block.parameters()):
            known.detach().view(-1)
        before = tracker.live
        out = block(x, documents)
        return tracker.live - before - out.untyped_storage().nbytes()


def test_a_block_keeps_what_its_kind_says() -> None:
    rows = len(window(0, range(8))[0].tokens)
    hidden, mlp = SHAPE.hidden, SHAPE.mlp_hidden
    queries, keys = SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim
    attention = queries + SHAPE.heads  # what it gives, and log-sum-exp
    # The residual between attention and MLP is kept in both cases, as input of the second norm or as a product.
    everything = {
        "norms": 2 * hidden + 2,  # what they give, which the products keep; and each row's factor
        "rotated": queries + 2 * keys,  # queries, keys, values
        "attention": attention,
        "residual": hidden,
        "mlp": 3 * mlp,  # gate, up, product
    }
    products = {"wqkv": queries + 2 * keys, "attention": attention, "wo": hidden, "gate and up": 2 * mlp, "w2": hidden}
    assert _kept_by_block("none") == 4 * rows * sum(everything.values())
    assert _kept_by_block("full") == 0
    assert _kept_by_block("selective") == 4 * rows * sum(products.values())
