"""Conditions travel with the weights that were trained with them; held-out figures against numpy and brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.alignment.reward.conditional import (
    CONDITIONS,
    HASH,
    condition_prefix,
    conditions_hash,
    load_conditions,
    save_conditions,
)
from ilm_ray.alignment.reward.metrics import BINS, pair_figures, pair_sums
from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import ScalarModel, Shape
from ilm_ray.model.weights import read_about, save_internlm2

PROMPTS = {"code": "Score the code.", "诗": "给这首诗打分。"}
SHAPE = Shape(vocab_size=300, layers=1, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)


def _tokenizer(extra: bytes = b"or") -> Tokenizer:
    return Tokenizer([*(bytes([i]) for i in range(256)), extra], SHAPE.vocab_size)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    save_internlm2(ScalarModel(SHAPE), tmp_path, {HASH: conditions_hash(_tokenizer(), PROMPTS)})
    save_conditions(tmp_path, _tokenizer(), PROMPTS)
    return tmp_path


def test_conditions_come_back_with_their_model(folder: Path) -> None:
    assert load_conditions(folder, _tokenizer()) == (PROMPTS, _tokenizer().reward_id)
    assert json.loads((folder / CONDITIONS).read_text())["tokens"]["code"] == condition_prefix(
        _tokenizer(), PROMPTS["code"]
    )


def test_what_the_weights_were_not_trained_with_is_refused(folder: Path) -> None:
    path = folder / CONDITIONS
    whole = path.read_text()
    path.write_text(whole.replace("Score the code.", "Score the jokes."))
    with pytest.raises(UserError, match="trained with conditions of hash"):
        load_conditions(folder, _tokenizer())
    for content in ("", "[]", '{"system_prompts": 3}'):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"{CONDITIONS} cannot be read"):
            load_conditions(folder, _tokenizer())
    path.write_text(whole)
    with pytest.raises(UserError, match="the run's tokenizer gives the conditions other tokens"):
        load_conditions(folder, _tokenizer(b"sc"))
    save_internlm2(ScalarModel(SHAPE), folder)  # weights that know of no conditions
    assert read_about(folder) == {}
    with pytest.raises(UserError, match="of hash none"):
        load_conditions(folder, _tokenizer())


_SCORES = st.floats(-4.9, 4.9).map(lambda x: round(x, 3))
_PAIRS = st.lists(st.tuples(_SCORES, _SCORES, st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40)


@given(_PAIRS, st.integers(0, 40))
def test_figures_are_those_of_numpy_however_the_pairs_are_shared_out(
    pairs: list[tuple[float, float, int, int]], cut: int
) -> None:
    parts = [part for part in (pairs[:cut], pairs[cut:]) if part]
    sums = np.sum([pair_sums(*zip(*part, strict=True)) for part in parts], axis=0).tolist()
    figures = pair_figures(sums)
    good, bad, long, short = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    assert figures["pairs"] == len(pairs) and figures["accuracy"] == pytest.approx(np.mean(good > bad))
    longer = [g > b for g, b, x, y in pairs if x > y]
    assert figures["accuracy_longer_preferred"] == (pytest.approx(np.mean(longer)) if longer else None)
    scores, lengths = np.concatenate([good, bad]), np.concatenate([long, short])
    for key, x, y in (
        ("length_correlation", scores, lengths),
        ("length_correlation_within_pairs", good - bad, long - short),
    ):
        if figures[key] is not None:
            assert figures[key] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-4)
        else:
            assert np.ptp(x) < 1e-4 or np.ptp(y) < 1e-4
    distance = 0.0
    confidence = 1 / (1 + np.exp(-np.abs(good - bad)))
    for i in range(BINS):
        low, high = 0.5 + i / (2 * BINS), 0.5 + (i + 1) / (2 * BINS)
        inside = (confidence >= low) & ((confidence < high) | (i == BINS - 1))
        if inside.any():
            distance += inside.sum() / len(pairs) * abs(confidence[inside].mean() - (good > bad)[inside].mean())
    assert figures["calibration_error"] == pytest.approx(distance, abs=1e-9)
    assert sum(b["pairs"] for b in figures["calibration"]) == len(pairs)


def test_a_model_that_says_what_it_knows_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    margin = 3 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    right = torch.rand(margin.shape, generator=generator) < margin.sigmoid()  # the first is better so often
    chosen = torch.where(right, margin, -margin)
    lengths = [1] * len(margin)
    figures = pair_figures(pair_sums(chosen.tolist(), [0.0] * len(margin), lengths, lengths))
    assert figures["calibration_error"] < 0.01
    overconfident = pair_figures(pair_sums((3 * chosen).tolist(), [0.0] * len(margin), lengths, lengths))
    assert overconfident["calibration_error"] > 0.05
    assert figures["length_correlation"] is None and figures["accuracy_shorter_preferred"] is None
