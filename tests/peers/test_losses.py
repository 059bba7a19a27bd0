"""Policy and value loss, and their gradients, against verl's and OpenRLHF's functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import policy_loss, value_loss
from tests.peers.cases import MASKS, case
from tests.peers.systems import openrlhf_models, require, verl_algorithms

require("verl", "openrlhf")
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
CLIP = 0.2
OFF = 1e9  # what switches verl's dual clip and value clip off: neither has a switch

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (new, old, target, mask) -> token mean


def _ours_policy(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return policy_loss(new[mask] - old[mask], advantages[mask], CLIP)[0].sum() / mask.sum()


def _ours_value(values: Tensor, _old: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    return value_loss(values[mask], returns[mask]).sum() / mask.sum()


def _verl_policy(dual_clip: float | None = OFF, **batch: Any) -> Loss:
    """dual_clip None: its own default."""
    algorithms = verl_algorithms()
    from verl.workers.config import ActorConfig  # type: ignore[import-not-found,unused-ignore]

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=CLIP,
        clip_ratio_low=CLIP,
        clip_ratio_high=CLIP,
        **({} if dual_clip is None else {"clip_ratio_c": dual_clip}),
    )
    config.global_batch_info.update(batch)
    loss = algorithms.get_policy_loss_fn("vanilla")
    return lambda new, old, advantages, mask: loss(old, new, advantages, mask.double(), config=config)[0]


def _verl_value(clip: float = OFF) -> Loss:
    loss = verl_algorithms().compute_value_loss
    return lambda values, old, returns, mask: loss(values, returns, old, mask.double(), clip)[0]


def _openrlhf_policy() -> Loss:
    loss = openrlhf_models()[1].PolicyLoss(CLIP, CLIP)
    return lambda new, old, advantages, mask: loss(new, old, advantages, action_mask=mask.double())[0]


def _openrlhf_value(clip: float | None = None) -> Loss:
    loss = openrlhf_models()[1].ValueLoss(clip)
    result: Loss = lambda values, old, returns, mask: loss(values, old, returns, action_mask=mask.double())  # noqa: E731
    return result


POLICY = {"verl": _verl_policy, "openrlhf": _openrlhf_policy}
VALUE = {"verl": _verl_value, "openrlhf": _openrlhf_value}


def _value_and_gradient(loss: Loss, new: Tensor, old: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    variable = new.clone().requires_grad_()
    value = loss(variable, old, target, mask)
    (gradient,) = torch.autograd.grad(value, variable)
    return value.detach(), gradient


@pytest.mark.parametrize("scale", [0.3, 4.0, 15.0])  # of log-ratios: usual, beyond the clip, beyond 10 and 20
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("system", POLICY)
def test_policy_loss_and_its_gradient(system: str, name: str, scale: float) -> None:
    c = case(MASKS[name], 0)
    new = c.reference + scale * (c.policy - c.reference)
    ours = _value_and_gradient(_ours_policy, new, c.reference, c.rewards, c.mask)
    theirs = _value_and_gradient(POLICY[system](), new, c.reference, c.rewards, c.mask)
    for our_part, their_part in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_part, their_part, **EXACT)


def test_verl_clips_a_second_time_by_default() -> None:
    """Where the advantage is negative and the ratio over 3, it caps the loss, which takes the gradient as well."""
    c = case(MASKS["full, no end token"], 1)
    new = c.reference + 4 * (c.policy - c.reference)
    once, clipped = policy_loss(new - c.reference, c.rewards, CLIP)
    twice = torch.where(c.rewards < 0, once.minimum(-3 * c.rewards), once)
    loss = _verl_policy(None)(new, c.reference, c.rewards, c.mask)
    torch.testing.assert_close(loss, twice.mean(), **EXACT)
    assert (once.mean() - loss) > 1e-3 and not clipped[twice < once].any()


@pytest.mark.parametrize("system", POLICY)
def test_micro_batches_add_up_to_the_global_token_mean(system: str) -> None:
    """Their default is a mean a micro-batch; told the step's tokens they give what we always give."""
    c = case(MASKS["ragged, padding not zero"], 2)
    count = int(c.mask.sum())
    whole = _ours_policy(c.policy, c.reference, c.rewards, c.mask)
    halves = [slice(0, 1), slice(1, 4)]
    parts = [(c.policy[h], c.reference[h], c.rewards[h], c.mask[h]) for h in halves]
    if system == "verl":
        total = sum(_verl_policy(batch_num_tokens=count, dp_size=1)(*part) for part in parts)
    else:
        loss = openrlhf_models()[1].PolicyLoss(CLIP, CLIP)
        total = sum(loss(new, old, a, m.double(), batch_num_tokens=count)[0] for new, old, a, m in parts)
    torch.testing.assert_close(total, whole, **EXACT)
    by_default = sum(POLICY[system]()(*part) for part in parts) / 2
    assert abs(float(by_default - whole)) > 1e-3


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("system", VALUE)
def test_value_loss_and_its_gradient(system: str, name: str) -> None:
    c = case(MASKS[name], 3)
    ours = _value_and_gradient(_ours_value, c.values, c.rewards, 3 * c.policy, c.mask)
    theirs = _value_and_gradient(VALUE[system](), c.values, c.rewards, 3 * c.policy, c.mask)
    for our_part, their_part in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_part, their_part, **EXACT)


@pytest.mark.parametrize("system", VALUE)
def test_clipped_value_loss_and_its_gradient(system: str) -> None:
    """verl clips always, OpenRLHF and we where asked to; the larger of the two errors counts."""
    c = case(MASKS["full, no end token"], 4)

    def ours(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        return value_loss(values[mask], returns[mask], old[mask], 0.5).sum() / mask.sum()

    our_parts = _value_and_gradient(ours, c.values, c.policy, c.rewards, c.mask)
    their_parts = _value_and_gradient(VALUE[system](0.5), c.values, c.policy, c.rewards, c.mask)
    for mine, theirs in zip(our_parts, their_parts, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    assert our_parts[0] - _ours_value(c.values, c.policy, c.rewards, c.mask) > 1e-3


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_a_nan_behind_the_mask(kind: str) -> None:
    """Ours: neither loss nor gradient knows of it. verl: losses are right, of values the gradient is NaN all the same
    (0 * NaN), of log-probabilities it is not, for they pass a clamp. OpenRLHF: the loss is NaN."""
    c = case(MASKS["ragged, padding not zero"], 5)
    ours, systems = (_ours_policy, POLICY) if kind == "policy" else (_ours_value, VALUE)
    expected = _value_and_gradient(ours, c.policy, c.reference, c.rewards, c.mask)
    new = c.policy.clone()
    new[1, -1] = torch.nan
    result = _value_and_gradient(ours, new, c.reference, c.rewards, c.mask)
    assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1])
    value, gradient = _value_and_gradient(systems["verl"](), new, c.reference, c.rewards, c.mask)
    torch.testing.assert_close(value, expected[0], **EXACT)
    assert bool(gradient[1, -1].isnan()) == (kind == "value")
    value, _ = _value_and_gradient(systems["openrlhf"](), new, c.reference, c.rewards, c.mask)
    assert value.isnan()
