"""Activation checkpointing: the same gradients bit for bit, and exactly the memory that its definition leaves."""

import functools
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, Documents, initialize
from ilm_ray.training.parallel.recompute import compile_blocks, recompute_blocks
from tests.training.parallel.tracking import Tracker
from tests.training.parallel.training import SHAPE, train_alone, train_layouts, window

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
        gradients = _gradients(how, dtype)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], gradient) for name, gradient in expected.items()), how


def _kept_by_block(how: How) -> int:
    """Bytes that a block's forward leaves until its backward, its input and its output not counted."""
    model = _model(how, torch.float32)
    block = model.model.layers["1"]
    batch, _ = window(0, range(8))
    documents = Documents.of(batch, SHAPE, torch.float32)
    x = torch.randn(len(batch.tokens), SHAPE.hidden).requires_grad_()
    with Tracker() as tracker:
        for known in (x, documents.cos, documents.sin, documents.borders[0], *block.parameters()):
            known.detach().view(-1)
        before = tracker.live
        out = block(x, documents)
        return tracker.live - before - out.untyped_storage().nbytes()


def test_a_block_keeps_what_its_kind_says() -> None:
    rows = len(window(0, range(8))[0].tokens)
    hidden, mlp = SHAPE.hidden, SHAPE.mlp_hidden
    queries, keys = SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim
    attention = queries + SHAPE.heads  # its output, and log-sum-exp
    # The residual between attention and MLP is kept in both cases, as input of the second norm or as a product.
    everything = {
        "norms": 2 * hidden + 2,  # their outputs, which the products keep; and each row's factor
        "rotated": queries + 2 * keys,  # queries, keys, values
        "attention": attention,
        "residual": hidden,
        "mlp": 3 * mlp,  # gate, up, product
    }
    products = {"wqkv": queries + 2 * keys, "attention": attention, "wo": hidden, "gate and up": 2 * mlp, "w2": hidden}
    assert _kept_by_block("none") == 4 * rows * sum(everything.values())
    assert _kept_by_block("full") == 0
    assert _kept_by_block("selective") == 4 * rows * sum(products.values())


TWO = {
    "pp2 1f1b": Layout(pp=2, gradients="replica"),
    "cp2 ulysses": Layout(cp=2),
}
FOUR = {
    "dp4, partial": Layout(parameters="partial", gradients="partial", optimizer="partial", shard_group=2),
    "dp2 tp2 sp": Layout(tp=2, sequence_parallel=True),
    "dp2 pp2 1f1b": Layout(pp=2, gradients="replica"),
    "tp2 cp2 ulysses": Layout(tp=2, cp=2),
    "cp4 gather": Layout(cp=4, cp_kind="gather"),
    "cp4 ring": Layout(cp=4, cp_kind="ring"),
    "pp2 tp2 gpipe": Layout(pp=2, schedule="gpipe", tp=2, gradients="replica"),
}


def _check_layouts(layouts: dict[str, Layout], ranks: int, folder: Path) -> None:
    """Every kind of recomputing gives, to the last bit, the three steps of the same layout without."""
    kinds: list[How] = ["none", "selective", "full"]
    changed = [layout.model_copy(update={"recompute": how}) for layout in layouts.values() for how in kinds]
    cases = [(layout, torch.float64) for layout in changed]
    trained = iter(train_layouts(cases, ranks, folder, deadline_s=280))
    for name in layouts:
        plain, *others = (next(trained) for _ in kinds)
        for how, other in zip(kinds[1:], others, strict=True):
            assert max(plain.differences(other).values()) == 0, (name, how)


@pytest.mark.ranks
def test_layouts_train_with_it_as_without(tmp_path: Path) -> None:
    _check_layouts(TWO, 2, tmp_path)


@pytest.mark.slow
def test_more_layouts_train_with_it_as_without(tmp_path: Path) -> None:
    _check_layouts(FOUR, 4, tmp_path)


@pytest.fixture()
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its code generator: graphs and gradients are the same, seconds rather than minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.long
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_lengths_of_documents_compile_nothing_anew(how: How, traced: None) -> None:
    plain, compiled = _model("none"), _model(how)
    compile_blocks(compiled)
    shapes = set()
    for step, numbers in enumerate(([0], [1, 2], [3], [4, 5, 6], [7, 8], [1, 2, 3, 4, 5])):
        batch, labels = window(step, numbers)
        shapes.add((len(labels), len(batch.cu_seqlens)))
        for model in (plain, compiled):
            model.zero_grad()
            model(batch, labels, "sum").backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-12)
    assert len(shapes) > 4
    counted = torch._dynamo.utils.counters
    assert not counted["graph_break"]
    # A size first taken for fixed becomes a variable at the second; borders may become one a batch later than rows.
    assert counted["stats"]["unique_graphs"] <= 3


def _check_compiled(layouts: list[Layout], ranks: int, folder: Path) -> None:
    alone = train_alone(torch.float64)
    cases = [(layout, torch.float64) for layout in layouts]
    for layout, trained in zip(layouts, train_layouts(cases, ranks, folder, deadline_s=250), strict=True):
        assert max(trained.differences(alone).values()) < 1e-9, layout


@pytest.mark.ranks
def test_a_compiled_layout_trains_as_one_process(tmp_path: Path, traced: None) -> None:
    _check_compiled([Layout(tp=2, compile=True)], 2, tmp_path)  # the embedding's sum under way enters the first block


@pytest.mark.slow
def test_compiled_layouts_train_as_one_process(tmp_path: Path, traced: None) -> None:
    together = Layout(pp=2, cp=2, gradients="replica", compile=True, recompute="selective")
    sequence = Layout(tp=2, sequence_parallel=True, compile=True, recompute="selective")
    _check_compiled([together, sequence, Layout(compile=True, recompute="full")], 4, tmp_path)


@pytest.mark.slow
def test_generated_code_computes_the_same() -> None:
    torch._dynamo.reset()
    plain, compiled = _model("none", torch.float32), _model("selective", torch.float32)
    compile_blocks(compiled)
    batch, labels = window(0, [0, 1])
    for model in (plain, compiled):
        model(batch, labels, "sum").backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
