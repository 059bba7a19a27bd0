"""Deadlines, memory and devices of measuring, against figures that were measured or counted op by op."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ilm_ray.config import load_config
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
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
    shape = Shape(160, 3, 96, 2, 3, 16, 64)
    assert cost.parameters(shape) == sum(p.numel() for p in CausalLM(shape).parameters())


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, Shape(64, 2, 256, 4, 2, 32, 768)),
        (torch.bfloat16, Shape(64, 2, 256, 4, 2, 32, 768)),
        (torch.bfloat16, Shape(64, 2, 512, 4, 4, 32, 640)),  # attention takes more than the narrow SwiGLU
    ],
)
@torch.no_grad()
def test_bytes_of_a_forward_are_those_of_its_tensors(dtype: torch.dtype, shape: Shape) -> None:
    rows = 2048
    model = CausalLM(shape, loss_chunk=64).to(dtype)
    batch, labels = Packed.of([[1] * 64] * (rows // 64)), torch.ones(rows, dtype=torch.int64)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    with Tracker() as tracker:
        model(batch, labels)
    measured = (tracker.peak - weights) / rows
    assert cost.activation_bytes(shape, dtype.itemsize) == pytest.approx(measured, rel=0.3)


def test_windows_are_as_before_on_a_core_and_fill_the_bytes_on_a_gpu() -> None:
    shape = shape_of("7b")
    for context in (256, 1024, 32_768):
        assert cost.packed_tokens(shape, context, on_gpu=False) == max(context, 1024)
        packed = cost.packed_tokens(shape, context, on_gpu=True)
        most = (packed + context) * cost.activation_bytes(shape, 2)
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
