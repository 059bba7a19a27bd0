"""Figures of a look inside a step, against the whole model in one process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import train
from ilm_ray.training.measure.look import ASK, _covered
from tests.processes import run_ranks
from tests.training.test_loop import SETTINGS, Toy


def _run(folder: str, layout: Layout) -> None:
    path, rows = Path(folder), list[dict[str, Any]]()
    train(Toy(), replace(SETTINGS, layout=layout, clip_norm=1e9), path, rows.append, Watch(path, dist.get_rank(), 60.0))
    (path / f"{dist.get_rank()}.json").write_text(json.dumps(rows))


def _alone() -> dict[str, dict[str, float]]:
    """Norms of the first step, by plain autograd over all documents at once."""
    toy, model = Toy(), Toy().build()
    assert isinstance(model, CausalLM)
    toy.fill(model)
    micros = toy.micro_batches(0, 0, 1)
    sum(toy.losses(model, m).loss for m in micros).backward()  # type: ignore[union-attr]
    count = sum(toy.count(m) for m in micros)
    layers: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        parts = name.removeprefix("model.").split(".")
        layer = f"layers.{parts[1]}" if parts[0] == "layers" else parts[0]
        figures = layers.setdefault(layer, {"gradient": 0.0})
        assert parameter.grad is not None
        figures["gradient"] += float((parameter.grad / count).square().sum())
    return {layer: {"gradient": figures["gradient"] ** 0.5} for layer, figures in layers.items()}


@pytest.mark.ranks
@pytest.mark.parametrize("layout", [Layout(), Layout(pp=2, gradients="replica"), Layout(tp=2)], ids=["dp", "pp", "tp"])
def test_norms_of_layers_are_those_of_the_whole_model_in_any_layout(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / ASK).touch()
    run_ranks(_run, 4, str(tmp_path), layout)
    expected = _alone()
    for rank in range(4):
        (look,) = [row["look"] for row in json.loads((tmp_path / f"{rank}.json").read_text()) if "look" in row]
        assert list(look["layers"]) == ["tok_embeddings", "layers.0", "layers.1", "norm", "output"]
        for layer, norms in expected.items():
            assert look["layers"][layer]["gradient"] == pytest.approx(norms["gradient"], rel=1e-9)
        assert 0 < look["communication_share"] < 1
    assert not (tmp_path / ASK).exists(), "one look for one request"


def test_collectives_beside_each_other_are_counted_once() -> None:
    assert _covered([(0, 4), (1, 2), (3, 6), (10, 11)]) == 7
    assert _covered([]) == 0
