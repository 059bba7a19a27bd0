"""The learners' steps with activation recomputation give the gradients without it, bit for bit."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from toy import FAMILY as SHAPE

from ilm_ray.alignment.ppo.arithmetic import policy_loss, value_loss
from ilm_ray.alignment.ppo.experience import join, per_response, response_labels
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.training.parallel.recompute import recompute_blocks

How = Literal["none", "full"]
STARTS = [3, 2, 4]
SEQUENCES = [[(7 * i + 5 * row) % 90 + 6 for i in range(n)] for row, n in enumerate((9, 5, 12))]
MIXED = [[(11 * i + row) % 90 + 6 for i in range(16)] for row in range(2)]


def _gradients(model: CausalLM | ScalarModel, how: How, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    recompute_blocks(model, how)
    loss().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _of_policy(how: How, dtype: torch.dtype) -> dict[str, Tensor]:
    """Clipped loss of rollouts and loss of a pre-training mix, in one forward."""
    model = CausalLM(SHAPE, loss_chunk=8)
    initialize(model, 3)
    model.to(dtype)

    def loss() -> Tensor:
        batch, labels = response_labels(SEQUENCES, STARTS)
        boundary = len(labels)
        mixed = torch.tensor([t for ids in MIXED for t in [*ids[1:], IGNORE]])
        out = model(join(batch, Packed.of(MIXED)), torch.cat((labels, mixed)))
        new = -torch.cat(per_response(out, SEQUENCES, STARTS))
        generator = torch.Generator().manual_seed(0)
        old, advantages = new.detach() + 0.1, torch.randn(len(new), generator=generator)
        return policy_loss(new - old, advantages, 0.2)[0].mean() + 0.5 * out[boundary:].mean()

    return _gradients(model, how, loss)


def _of_critic(how: How, dtype: torch.dtype) -> dict[str, Tensor]:
    model = ScalarModel(SHAPE)
    initialize(model, 4)
    model.to(dtype)

    def loss() -> Tensor:
        values = torch.cat(per_response(model(Packed.of(SEQUENCES)), SEQUENCES, STARTS))
        returns = torch.linspace(-1, 1, len(values))
        return value_loss(values, returns, values.detach(), 0.2).mean()

    return _gradients(model, how, loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradients", [_of_policy, _of_critic])
def test_recomputation_changes_no_bit_of_a_gradient(
    gradients: Callable[[How, torch.dtype], dict[str, Tensor]], dtype: torch.dtype
) -> None:
    kept, again = gradients("none", dtype), gradients("full", dtype)
    assert kept.keys() == again.keys() and len(kept) > 2 * 7
    assert all(torch.equal(again[name], gradient) for name, gradient in kept.items())
    assert max(float(g.abs().max()) for g in kept.values()) > 0
