"""Advantages and returns against verl's and OpenRLHF's functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import gae, normalized
from tests.peers.cases import CONTIGUOUS, GAPS, MASKS, case
from tests.peers.systems import openrlhf_gae, require, verl_algorithms

require("verl", "openrlhf")
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
SETTINGS = [(1.0, 0.99), (0.97, 0.9), (1.0, 1.0), (0.9, 0.0)]


@pytest.fixture(scope="module")
def verl() -> Callable[..., tuple[Tensor, Tensor]]:
    """(rewards, values, mask, discount, lam) -> whitened advantages, returns."""
    function = verl_algorithms().compute_gae_advantage_return
    return lambda rewards, values, mask, gamma, lam: function(rewards, values, mask.double(), gamma, lam)


@pytest.fixture(scope="module")
def openrlhf() -> Callable[..., tuple[Tensor, Tensor]]:
    function = openrlhf_gae()
    return lambda rewards, values, mask, gamma, lam: function(values, rewards, mask.double(), gamma, lam)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("discount", "lam"), SETTINGS)
@pytest.mark.parametrize("name", MASKS)
def test_verl_gives_our_advantages_and_returns(name: str, discount: float, lam: float, seed: int, verl: Any) -> None:
    c = case(MASKS[name], seed)
    advantages, returns = gae(c.rewards, c.values, c.mask, discount, lam)
    whitened, theirs = verl(c.rewards, c.values, c.mask, discount, lam)
    torch.testing.assert_close(returns[c.mask], theirs[c.mask], **EXACT)
    torch.testing.assert_close(advantages[c.mask], (theirs - c.values)[c.mask], **EXACT)
    # It always whitens, with Bessel's correction; we do where asked to.
    ours = torch.stack(normalized(list(advantages), list(c.mask)))
    torch.testing.assert_close(ours[c.mask], whitened[c.mask], **EXACT)


@pytest.mark.parametrize(("discount", "lam"), SETTINGS)
@pytest.mark.parametrize("name", CONTIGUOUS)
def test_openrlhf_gives_our_advantages_and_returns_without_gaps(
    name: str, discount: float, lam: float, openrlhf: Any
) -> None:
    c = case(MASKS[name], 4)
    advantages, returns = gae(c.rewards, c.values, c.mask, discount, lam)
    theirs = openrlhf(c.rewards, c.values, c.mask, discount, lam)
    torch.testing.assert_close(advantages[c.mask], theirs[0][c.mask], **EXACT)
    torch.testing.assert_close(returns[c.mask], theirs[1][c.mask], **EXACT)


@pytest.mark.parametrize(("discount", "lam"), SETTINGS)
@pytest.mark.parametrize("name", GAPS)
def test_openrlhf_takes_a_gap_for_steps_of_value_zero(name: str, discount: float, lam: float, openrlhf: Any) -> None:
    """Its next value in front of a gap is 0, and the gap's tokens discount what follows."""
    c = case(MASKS[name], 5)
    theirs = openrlhf(c.rewards, c.values, c.mask, discount, lam)
    zero = torch.zeros_like(c.values)
    as_steps = gae(
        torch.where(c.mask, c.rewards, zero),
        torch.where(c.mask, c.values, zero),
        torch.ones_like(c.mask),
        discount,
        lam,
    )
    for ours, other in zip(as_steps, theirs, strict=True):
        torch.testing.assert_close(ours[c.mask], other[c.mask], **EXACT)
    difference = (gae(c.rewards, c.values, c.mask, discount, lam)[1] - theirs[1])[c.mask].abs().max()
    # With discount and lambda 1 the values between first and last token cancel out, and so does the difference.
    assert (difference < 1e-9) if discount == lam == 1.0 else (difference > 1e-3)


@pytest.mark.parametrize("name", ["ragged, padding not zero", "tool gap", "all-masked row"])
def test_a_nan_behind_the_mask_poisons_both_of_them_and_not_us(name: str, verl: Any, openrlhf: Any) -> None:
    c = case(MASKS[name], 6)
    row = 0 if name == "tool gap" else 2  # a row that has counted tokens in front of a masked one
    at = int((~c.mask[row] & (torch.arange(c.mask.shape[1]) > c.mask[row].nonzero()[0])).nonzero()[0])
    assert c.mask[row, :at].any() and not c.mask[row, at]
    expected = gae(c.rewards, c.values, c.mask, 1.0, 0.99)
    values = c.values.clone()
    values[row, at] = torch.nan
    for ours, clean in zip(gae(c.rewards, values, c.mask, 1.0, 0.99), expected, strict=True):
        assert torch.equal(ours, clean)
    for system in (verl, openrlhf):  # NaN * 0 is NaN
        assert system(c.rewards, values, c.mask, 1.0, 0.99)[1][row, :at][c.mask[row, :at]].isnan().any()


def test_an_all_masked_row_has_neither_advantage_nor_return(verl: Any, openrlhf: Any) -> None:
    c = case(MASKS["all-masked row"], 7)
    ours = gae(c.rewards, c.values, c.mask, 1.0, 0.99)
    assert not ours[0][0].any() and not ours[1][0].any()
    assert not any(part[0].any() for part in openrlhf(c.rewards, c.values, c.mask, 1.0, 0.99))
    # verl leaves the value as the return there: harmless while the loss is masked.
    torch.testing.assert_close(verl(c.rewards, c.values, c.mask, 1.0, 0.99)[1][0], c.values[0], **EXACT)
