"""Options that the report leaves off and others use: advantage normalisation and value clipping."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.alignment.ppo.arithmetic import normalized, value_loss


@given(st.integers(0, 2**31), st.integers(2, 40))
def test_normalised_advantages_have_mean_0_and_deviation_1_over_counted_tokens_alone(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    advantages = [torch.randn(n, generator=generator) * 3 + 5, torch.randn(4, generator=generator)]
    masks = [torch.rand(n, generator=generator) < 0.7, torch.tensor([True, True, False, True])]
    advantages[1][2] = torch.nan
    whitened = normalized(advantages, masks)
    counted = torch.cat([f[m] for f, m in zip(whitened, masks, strict=True)]).double()
    assert abs(float(counted.mean())) < 1e-5 and abs(float(counted.std()) - 1) < 1e-4
    assert all(float(f[~m].abs().sum()) == 0 for f, m in zip(whitened, masks, strict=True))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 1))
def test_a_clipped_value_has_a_gradient_unless_it_went_too_far_towards_its_return(
    new: float, old: float, back: float, clip: float
) -> None:
    value = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    others = [torch.tensor([x], dtype=torch.float64) for x in (back, old)]
    loss = value_loss(value, *others, clip)
    assert float(loss.detach()) >= float(value_loss(value, others[0]).detach())
    (slope,) = torch.autograd.grad(loss.sum(), value)
    held = min(max(new, old - clip), old + clip)
    overshoots = abs(held - back) > abs(new - back)  # what counts then is the held value, a constant
    assert float(slope) == pytest.approx(0.0 if overshoots else new - back, abs=1e-9)
