"""A safetensors file written tensor by tensor is the library's own, byte for byte."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ilm_ray.model.weights_file import WeightsFile, order_of

GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=GENERATOR).to(dtype)


CASES = {
    "fp32": {"layers.10.w": drawn(3, 5), "layers.9.w": drawn(2), "b": drawn(1, 1), "a": drawn(7)},
    "mixed": {"z": drawn(3), "a": drawn(2, dtype=torch.bfloat16), "m": drawn(5, dtype=torch.float64), "b": drawn(1)},
    "empty and without dimensions": {"none": drawn(0, 4), "scalar": drawn()},
}


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_the_library_s(name: str, tmp_path: Path) -> None:
    weights, about = CASES[name], {"format": "pt"}
    save_file(weights, tmp_path / "theirs", metadata=about)
    meta = {key: tensor.to("meta") for key, tensor in weights.items()}
    with WeightsFile(tmp_path / "ours", meta, about) as out:
        assert out.order == order_of(meta)
        for key in out.order:
            out.write(key, weights[key].requires_grad_())
        assert not (tmp_path / "ours").exists()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_is_not_next_or_missing_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    weights = CASES["fp32"]
    for wrong in ({"b": weights["b"]}, {"a": weights["a"][:3]}, {"a": weights["a"].double()}, {}):
        with (
            pytest.raises(ValueError, match=r"comes next|were not written"),
            WeightsFile(tmp_path / "w", weights, {}) as out,
        ):
            for key, tensor in wrong.items():
                out.write(key, tensor)
        assert not (tmp_path / "w").exists()
