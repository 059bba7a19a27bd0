"""The scorer's first weights: what is read again is foretold, near or far, and nothing else is promised."""

import numpy as np
import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.training.induction_head import ROPE_BASE, initialize_copying
from ilm_ray.training.longtext_scorer import scorer_config
from ilm_ray.training.plan.shape import shape_of

VOCABULARY = 2048


def mean_losses(model: CausalLM, distance: int) -> tuple[float, float]:
    """Nats a token of 200 random tokens, and of the same ones `distance` tokens further on."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCABULARY, distance + 200)
    tokens[distance:] = tokens[:200]
    with torch.no_grad():
        losses = model(packed_from_arrays([tokens[:-1]]), torch.from_numpy(tokens[1:]))
    return float(losses[:199].mean()), float(losses[distance:].mean())


@pytest.mark.parametrize("preset", ["nano", "1_8b"])
@pytest.mark.parametrize("distance", [201, 1700])
def test_untrained_it_foretells_what_it_has_read(preset: str, distance: int) -> None:
    shape = shape_of(scorer_config(load_config(preset), {"en": 1.0}), VOCABULARY)
    assert shape.rope_base == ROPE_BASE
    model = CausalLM(shape)
    initialize_copying(model, 3)
    first, again = mean_losses(model, distance)
    assert again < first - 4.0
    assert first < np.log(VOCABULARY) + 0.7  # the price where nothing comes again
    initialize(model, 3)
    first, again = mean_losses(model, distance)
    assert again == pytest.approx(first, abs=0.1)  # as ever, a model must learn it


def test_a_size_without_room_for_it_is_refused() -> None:
    for change in ("layers=1", "head_dim=32"):
        heads = {
            "layers=1": "kv_heads: 2, head_dim: 64, layers: 1",
            "head_dim=32": "kv_heads: 4, head_dim: 32, layers: 2",
        }
        model = f"{{hidden: 128, queries_per_kv: 1, mlp_hidden: 8, {heads[change]}}}"
        with pytest.raises(UserError, match="two layers and heads half as wide"):
            load_config("nano", None, [f"long_text.scorer_model={model}"])
