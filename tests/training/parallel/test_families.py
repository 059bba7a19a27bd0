"""Tied heads, biases and QK norms train in every kind of layout as in one process."""

from pathlib import Path

import pytest
import torch

from ilm_ray.config.layout import Layout
from tests.training.parallel.training import FAMILY, train_alone, train_layouts

LAYOUTS = {
    "dp4, full": Layout(),
    "dp2 tp2": Layout(tp=2),
    "cp2 tp2 sp ulysses": Layout(cp=2, tp=2, sequence_parallel=True),
    "dp2 pp2": Layout(pp=2, gradients="replica"),
    "pp4": Layout(pp=4, gradients="replica"),
    "pp2 tp2 sp, interleaved x2": Layout(
        pp=2, schedule="interleaved", virtual_stages=2, tp=2, sequence_parallel=True, gradients="replica"
    ),
}


@pytest.mark.ranks
def test_each_kind_of_layout_trains_all_features_as_one_process(tmp_path: Path) -> None:
    alone = train_alone(torch.float64, FAMILY)
    cases = [(layout, torch.float64) for layout in LAYOUTS.values()]
    results = train_layouts(cases, 4, tmp_path, deadline_s=150, shape=FAMILY)
    differences = {name: result.differences(alone) for name, result in zip(LAYOUTS, results, strict=True)}
    print(differences)
    assert max(value for figures in differences.values() for value in figures.values()) < 1e-9
