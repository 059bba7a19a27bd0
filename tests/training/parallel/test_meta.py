"""A model that no rank holds whole starts with the weights of the whole one, in any layout."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout
from ilm_ray.model import initial
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.model.weights import load_causal, read_weights, save_internlm2
from ilm_ray.training.parallel.parallelize import parallelize
from tests.processes import run_ranks
from tests.training.parallel.tracking import Tracker
from tests.training.parallel.training import FAMILY as SHAPE

BAND = 320  # five rows of most matrices: shares begin and end within bands
LAYOUTS = {
    "dp4": Layout(),
    "dp2 tp2 sp, partial": Layout(cp=2, tp=2, sequence_parallel=True),
    "tp4": Layout(tp=4),
    "pp2 tp2": Layout(pp=2, tp=2, gradients="replica"),
}


def _compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "BAND", BAND)
    whole = CausalLM(SHAPE)
    initialize(whole, 5)
    expected = dict(whole.named_parameters())
    largest = max(p.numel() for p in expected.values())
    for name, layout in LAYOUTS.items():
        with Tracker() as tracker:
            with torch.device("meta"):
                model = CausalLM(SHAPE)
            laid_out = parallelize(model, layout, torch.device("cpu"), "fp32")
            for part in laid_out.parts:
                initialize(part, 5)
            peak = tracker.peak
        stored = sum(p.to_local().numel() for p in laid_out.parameters())
        # A norm that each tensor-parallel rank has whole, two bands and torch's own copies of no more than those.
        assert peak <= 4 * (stored + 4 * BAND) < 4 * (stored + largest), name
        for part in laid_out.parts:
            for key, parameter in part.named_parameters():
                assert torch.equal(parameter.full_tensor(), expected[key]), (name, key)


def _read(folder: str) -> None:
    expected = dict(load_causal(Path(folder)).named_parameters())
    for name, layout in LAYOUTS.items():
        with torch.device("meta"):
            model = CausalLM(SHAPE)
        with Tracker() as tracker:
            laid_out = parallelize(model, layout, torch.device("cpu"), "fp32")
            for part in laid_out.parts:
                read_weights(part, Path(folder))
            peak = tracker.peak
        stored = sum(p.to_local().numel() for p in laid_out.parameters())
        # The one matrix that is read counts as a whole, though only the pages of this rank's rows leave the disk.
        assert peak <= 4 * (stored + 1.1 * max(p.numel() for p in expected.values())), name
        for part in laid_out.parts:
            for key, parameter in part.named_parameters():
                assert torch.equal(parameter.full_tensor(), expected[key]), (name, key)


@pytest.mark.ranks
def test_shares_read_from_a_folder_are_those_of_the_whole_and_little_more_is_held(tmp_path: Path) -> None:
    whole = CausalLM(SHAPE)
    initialize(whole, 5)
    save_internlm2(whole, tmp_path)
    run_ranks(_read, 4, str(tmp_path))


def test_a_folder_whose_weights_are_of_another_size_is_refused(tmp_path: Path) -> None:
    save_internlm2(CausalLM(SHAPE), tmp_path)
    wider = dataclasses.replace(SHAPE, mlp_hidden=SHAPE.mlp_hidden * 2)
    (tmp_path / "shape.json").write_text(json.dumps(dataclasses.asdict(wider)))
    with pytest.raises(UserError, match=r"feed_forward\.w1\.weight has shape"):
        load_causal(tmp_path)


@pytest.mark.ranks
def test_shares_are_those_of_the_whole_and_little_more_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    run_ranks(_compare, 4, monkeypatch)


def test_weights_are_normal_and_differ_by_seed_name_and_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "BAND", BAND)
    models = [CausalLM(SHAPE) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialize(model, seed)
    head = models[0].output.weight
    assert torch.equal(head, models[1].output.weight) and not torch.equal(head, models[2].output.weight)
    rows = torch.cat([head, models[0].model.tok_embeddings.weight])
    assert len(rows.unique(dim=0)) == len(rows)
    assert rows.std().item() == pytest.approx(SHAPE.init_std, rel=0.05) and abs(rows.mean().item()) < 0.01
    deep = models[0].model.layers["3"].feed_forward.w2.weight
    assert deep.std().item() == pytest.approx(SHAPE.init_std / 8**0.5, rel=0.05)
