"""Deadlines, memory and devices of measuring, against figures that were measured or counted op by op."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from torch.utils._pytree import tree_leaves

from ilm_ray.config import load_config
from ilm_ray.model.internlm2 import Attention, CausalLM, Packed, Shape, initialize
from ilm_ray.training.beside import BESIDE_S, device_beside
from ilm_ray.training.measure import cost
from ilm_ray.training.measure.heldout import Window, bits_and_bytes, heldout_windows
from tests.data.tokens.made_source import make_source
from tests.training.parallel.tracking import Tracker

HOUR = 3600.0


def shape_of(preset: str) -> Shape:
    config = load_config(preset)
    return Shape(vocab_size=config.tokenizer.vocab_size, **config.model.model_dump())


@pytest.mark.parametrize(("preset", "hours"), [("1_8b", 2.3), ("7b", 8.7), ("20b", 22)])
def test_a_core_is_given_the_hours_that_a_forward_was_reckoned_to_take(preset: str, hours: float) -> None:
    """82,000 tokens at 51 GFLOP/s, as reckoned for each model by hand; the old flat hour was too short for all."""
    seconds = cost.forward_s(shape_of(preset), 82_000, 4096, on_gpu=False)
    assert seconds / HOUR == pytest.approx(hours, rel=0.35)
    assert cost.deadline_s(shape_of(preset), seconds) > 5 * seconds
    assert cost.deadline_s(shape_of(preset), seconds, rounds=3) == 3 * cost.deadline_s(shape_of(preset), seconds)
    # A GPU is done within the hour that any model had.
    assert cost.forward_s(shape_of(preset), 82_000, 4096, on_gpu=True) < 600


def test_parameters_are_the_models() -> None:
    plain = Shape(160, 3, 96, 2, 3, 16, 64)
    varied = replace(plain, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True)
    for shape in (plain, varied, replace(varied, tied=True)):
        assert cost.parameters(shape) == sum(p.numel() for p in CausalLM(shape).parameters())


class FakeTracker(Tracker):
    """Counts fake tensors, which the other leaves out."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return out


def _varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    out = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)
    return out


NARROW = Shape(64, 2, 4096, 8, 4, 128, 2048)  # in which attention takes more than SwiGLU


@pytest.mark.parametrize("shape", [shape_of("1_8b"), shape_of("7b"), shape_of("20b"), NARROW])
@torch.no_grad()
def test_bytes_of_a_forward_are_those_of_a_traced_one(shape: Shape) -> None:
    """The real forward at full width with fake tensors and the attention operator of a GPU, for which a CPU stands."""
    rows = 32_768
    with torch.device("meta"):
        model = CausalLM(replace(shape, layers=2), loss_chunk=1024).to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = _varlen
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                module.register_parameter(name, torch.nn.Parameter(fake, requires_grad=False))
        tokens, borders = torch.zeros(rows, dtype=torch.int64), torch.zeros(9, dtype=torch.int32)
        with FakeTracker() as tracker:
            for parameter in model.parameters():
                tracker._see(parameter.untyped_storage())
            weights = tracker.live
            model(Packed(tokens, tokens, borders, 4096), tokens)
    assert cost.activation_bytes(shape) == pytest.approx((tracker.peak - weights) / rows, rel=0.05)


def test_windows_are_as_before_on_a_core_and_fill_the_bytes_on_a_gpu() -> None:
    shape = shape_of("7b")
    for context in (256, 1024, 32_768):
        assert cost.packed_tokens(shape, context, on_gpu=False) == max(context, 1024)
        packed = cost.packed_tokens(shape, context, on_gpu=True)
        most = (packed + context) * cost.activation_bytes(shape)
        assert packed >= context and (most <= cost.FORWARD_BYTES or packed == max(context, 1024))


@torch.no_grad()
def test_figures_do_not_depend_on_how_many_documents_a_window_holds(tmp_path: Path) -> None:
    source = make_source(tmp_path / "en", np.random.default_rng(0).integers(2, 90, 40).tolist())
    model = CausalLM(Shape(8192, 1, 32, 1, 1, 32, 32))
    initialize(model, 0)
    lengths = torch.ones(8192)

    def figures(windows: list[Window]) -> np.ndarray:
        return np.sum([bits_and_bytes(model, window, lengths) for window in windows], axis=0)

    small, large = (heldout_windows(source, 32, 700, packed) for packed in (64, 4096))
    assert len(small) > len(large) == 1
    np.testing.assert_allclose(figures(small), figures(large), rtol=1e-6)


@pytest.mark.parametrize(
    ("preset", "gpus", "device"),
    [
        ("nano", 0, "cpu"),
        ("nano", 2, "cpu"),  # both train
        ("nano", 3, "cuda"),
        ("7b", 0, "cpu"),  # nothing else there
        ("7b", 32, None),
        ("7b", 33, "cuda"),
    ],
)
def test_checkpoints_are_measured_on_a_gpu_that_training_leaves_free(
    preset: str, gpus: int, device: str | None
) -> None:
    chosen, seconds = device_beside(load_config(preset), shape_of(preset), 3, gpus)
    assert chosen == device and seconds > 0
    if device is None:
        assert seconds > BESIDE_S
