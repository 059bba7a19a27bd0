"""Reading a model holds one tensor of the file beside the model itself."""

from pathlib import Path

import torch

from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape, initialize
from ilm_ray.model.weights import load_causal, load_scalar, save_internlm2
from tests.training.parallel.tracking import Tracker

SHAPE = Shape(vocab_size=500, layers=6, hidden=64, kv_heads=2, queries_per_kv=2, head_dim=16, mlp_hidden=160)


def test_a_model_in_half_precision_never_exists_in_fp32(tmp_path: Path) -> None:
    model = CausalLM(SHAPE)
    initialize(model, 0)
    save_internlm2(model, tmp_path)
    whole, largest = 4 * sum(p.numel() for p in model.parameters()), 4 * max(p.numel() for p in model.parameters())
    with Tracker() as tracker:
        half = load_causal(tmp_path, dtype=torch.bfloat16)
    assert tracker.peak <= whole / 2 + largest < whole
    for ours, theirs in zip(half.parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs.to(torch.bfloat16))


def test_a_scalar_model_is_that_of_the_file_in_its_type_and_its_drawn_head(tmp_path: Path) -> None:
    model = ScalarModel(SHAPE)
    initialize(model, 1)
    save_internlm2(model, tmp_path)
    one, other = (load_scalar(tmp_path, dtype=dtype, head_seed=3) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(one.model.norm.weight, model.model.norm.weight)
    assert not torch.equal(one.v_head.weight, model.v_head.weight)
    for full, half in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(half, full.to(torch.bfloat16))
