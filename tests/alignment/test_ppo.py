"""PPO's arithmetic against brute force, expectations known in closed form, and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ilm_ray.alignment.ppo import arithmetic
from ilm_ray.alignment.ppo.assemble import GroupOutputs, derive, experience_of, figures, one_a_domain_first
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts, merge, per_response, response_labels
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize


def _brute_force(rewards: Tensor, values: Tensor, discount: float, lam: float) -> Tensor:
    """The definition: A_t = sum over k of (discount lam)^k delta_(t+k), in double precision."""
    n = len(values)
    following = [*values[1:].tolist(), 0.0]
    delta = [float(rewards[t]) + discount * following[t] - float(values[t]) for t in range(n)]
    return torch.tensor([sum((discount * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)])


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 20), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_gae_skips_gaps_and_padding_whatever_stands_there(seed: int, n: int, discount: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 3, n, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, n, generator=generator) < 0.6
    rewards[~mask], values[~mask] = math.nan, math.inf
    advantages, returns = arithmetic.gae(rewards, values, mask, discount, lam)
    for row in range(3):
        kept = mask[row]
        expected = _brute_force(rewards[row][kept], values[row][kept], discount, lam)
        torch.testing.assert_close(advantages[row][kept], expected.double(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(returns[row][kept], advantages[row][kept] + values[row][kept])
        assert not advantages[row][~kept].any() and not returns[row][~kept].any()


def test_gae_of_ragged_sequences_equals_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 7, 4]
    rewards, values = ([torch.randn(n, generator=generator) for n in lengths] for _ in range(2))
    masks = [torch.ones(n, dtype=torch.bool) for n in lengths]
    advantages, _ = arithmetic.gae_of(rewards, values, masks, 0.9, 0.8)
    for a, r, v in zip(advantages, rewards, values, strict=True):
        torch.testing.assert_close(a, _brute_force(r, v, 0.9, 0.8), atol=1e-5, rtol=1e-5)


def test_kl_estimators_expectation_and_sign() -> None:
    p, q = (torch.tensor(w, dtype=torch.float64) for w in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
    exact = float((p * (p / q).log()).sum())
    k1, k2, k3 = (arithmetic.kl_estimate(p.log(), q.log(), name) for name in ("k1", "k2", "k3"))
    assert float((p * k1).sum()) == pytest.approx(exact)
    assert float((p * k3).sum()) == pytest.approx(exact)
    assert (k1 < 0).any() and (k2 >= 0).all() and (k3 >= 0).all()
    # k2's mean tends to the KL as the distributions meet: both are half the Fisher distance then.
    near = (p.log() + 1e-3 * torch.tensor([1.0, -2.0, 0.5])).softmax(0)
    squared = float((p * arithmetic.kl_estimate(p.log(), near.log(), "k2")).sum())
    assert squared == pytest.approx(float((p * (p / near).log()).sum()), rel=1e-2)


def test_kl_estimate_is_finite_where_the_reference_finds_a_token_likely_and_the_policy_does_not() -> None:
    for name in ("k1", "k2", "k3"):
        assert arithmetic.kl_estimate(torch.tensor([-1000.0]), torch.tensor([0.0]), name).isfinite().all()


def test_the_score_falls_on_the_last_counted_token_and_masked_kl_is_free() -> None:
    kl = torch.tensor([0.5, math.nan, 0.25, math.nan])
    rewards = arithmetic.token_rewards(kl, torch.tensor([True, False, True, False]), 2.0, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([-0.05, 0.0, 2.0 - 0.025, 0.0]))
    assert not arithmetic.token_rewards(kl, torch.zeros(4, dtype=torch.bool), 2.0, 0.1).any()


@settings(max_examples=100)
@given(st.floats(-1, 1), st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3))
def test_policy_gradient_vanishes_exactly_where_the_clip_holds(difference: float, advantage: float) -> None:
    new = torch.tensor([difference], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([advantage], dtype=torch.float64)
    loss, clipped = arithmetic.policy_loss(new, a, 0.2)
    loss.sum().backward()
    ratio = math.exp(difference)
    beyond = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert new.grad is not None
    assert bool(clipped) == beyond
    assert float(new.grad) == pytest.approx(0.0 if beyond else -advantage * ratio)


def test_a_huge_log_ratio_stays_finite() -> None:
    loss, _ = arithmetic.policy_loss(torch.tensor([500.0]), torch.tensor([-1.0]), 0.2)
    assert loss.isfinite().all()


@settings(max_examples=50)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 5), st.integers(50, 200))
def test_every_sequence_is_worked_on_once_and_ranks_meet(lengths: list[int], ranks: int, budget: int) -> None:
    shares = arithmetic.share_out(lengths, ranks)
    micros = arithmetic.even_micro_batches(shares, lengths, budget)
    assert len({len(rank) for rank in micros}) == 1
    assert sorted(i for rank in micros for micro in rank for i in micro) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in micro) <= budget or len(micro) == 1 for rank in micros for micro in rank)
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
    st.integers(0, 12),
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(60, 150),
    st.integers(0, 9),
)
def test_rollouts_and_pretraining_sequences_share_one_budget(
    lengths: list[int], mixed: int, context: int, ranks: int, budget: int, left_out: int
) -> None:
    numbers = [i for i in range(len(lengths)) if i % 10 != left_out] or [0]
    micros = arithmetic.mixed_micro_batches(lengths, numbers, mixed, context, ranks, budget)
    assert len(micros) == ranks and len({len(rank) for rank in micros}) == 1
    worked_on = sorted(i for rank in micros for micro in rank for i in micro)
    assert worked_on == sorted([*numbers, *range(len(lengths), len(lengths) + mixed)])
    for rank in micros:
        for micro in rank:
            assert sum(lengths[i] if i < len(lengths) else context for i in micro) <= budget
            kinds = [i >= len(lengths) for i in micro]
            assert kinds == sorted(kinds)  # rollouts first: the boundary between the two losses is one number


@given(st.integers(1, 20), st.integers(1, 15), st.integers(0, 9))
def test_prompts_come_round_evenly(count: int, total: int, seed: int) -> None:
    seen = [n for i in range(total) for n in arithmetic.prompt_numbers(i, count, total, seed)]  # exactly `count` epochs
    assert sorted(seen) == sorted(list(range(total)) * count)
    assert len(set(seen[:total])) == total


def test_updates_cover_all_sequences() -> None:
    plan = arithmetic.plan_updates([5] * 7, 3, [1, 2, 3])
    assert sorted(i for part in plan for i in part) == list(range(7))
    assert plan == arithmetic.plan_updates([5] * 7, 3, [1, 2, 3]) != arithmetic.plan_updates([5] * 7, 3, [1, 2, 4])


SHAPE = Shape(vocab_size=50, layers=1, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)


def test_response_positions_give_the_logprob_of_each_response_token() -> None:
    model = CausalLM(SHAPE)
    initialize(model, 0)
    sequences, starts = [[1, 2, 3, 4], [5, 6], [7, 8, 9]], [2, 1, 1]
    batch, labels = response_labels(sequences, starts)
    with torch.no_grad():
        parts = per_response(-model(batch, labels), sequences, starts)
        for ids, n, part in zip(sequences, starts, parts, strict=True):
            table = model(Packed.of([ids])).log_softmax(-1)
            expected = torch.stack([table[t - 1, ids[t]] for t in range(n, len(ids))])
            torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


def test_experience_from_hand_made_numbers() -> None:
    settings_ = PPOConfig(kl_coefficient=0.5, discount=1.0, gae_lambda=1.0)
    rolled = Rollouts(
        [Prompt("a", "code", [1, 2]), Prompt("b", "maths", [3])],
        [[4, 5], [6]],
        [torch.tensor([-1.0, -2.0]), torch.tensor([-0.5])],
        3,
    )
    old = [torch.tensor([-1.0, -2.0]), torch.tensor([-0.5])]
    reference = [torch.tensor([-1.5, -2.0]), torch.tensor([-1.5])]
    values = [torch.tensor([0.1, 0.2]), torch.tensor([0.3])]
    outputs = GroupOutputs(
        rolled, [torch.ones(len(o), dtype=torch.bool) for o in old], old, reference, values, [2.0, -1.0], [{}, {}]
    )
    derived = derive(settings_, outputs)
    experience, row = experience_of(outputs, derived), figures(settings_, outputs, derived)
    # lambda 1, discount 1: the return is the sum of the rewards to come.
    torch.testing.assert_close(experience.returns[0], torch.tensor([-0.25 + 2.0, 2.0]))
    torch.testing.assert_close(experience.advantages[1], torch.tensor([-0.5 - 1.0 - 0.3]))
    assert row["kl"] == pytest.approx((0.5 + 1.0) / 2)
    assert row["reward_by_domain"] == {"code": 2.0, "maths": -1.0}
    assert row["logprob_gap"] == 0.0 and experience.version == 3
    assert one_a_domain_first(rolled, 2) == [0, 1]


def test_rollouts_of_different_weights_do_not_mix() -> None:
    first, second = (Rollouts([Prompt("a", "code", [1])], [[2]], [torch.zeros(1)], version) for version in (1, 2))
    with pytest.raises(ValueError, match="different weight versions"):
        merge([first, second])
