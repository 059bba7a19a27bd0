"""Estimators without a critic and their corrections, against the papers' formulas written out in plain fp64."""

import itertools
import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ilm_ray.alignment.ppo.arithmetic import policy_loss
from ilm_ray.alignment.ppo.estimators import (
    EPSILON,
    estimated,
    group_advantages,
    importance_weights,
    in_equal_groups,
    overlong_penalty,
    sequence_log_ratio,
    token_shares,
)

SCORES = st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=16)
RAGGED = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def _fp64(parts: Sequence[Tensor]) -> list[list[float]]:
    return [part.double().tolist() for part in parts]


def _drawn(seed: int, lengths: Sequence[int], scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, generator=generator, dtype=torch.float64) for n in lengths]


def _gappy(seed: int, lengths: Sequence[int]) -> list[Tensor]:
    """Masks with at least one counted token."""
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(n, generator=generator) < 0.7 for n in lengths]
    for mask in masks:
        mask[0] = True
    return masks


@given(SCORES)
def test_a_groups_advantages_are_those_of_the_formulas(rows: list[tuple[int, float]]) -> None:
    groups, scores = [g for g, _ in rows], [s for _, s in rows]
    found = {name: group_advantages(scores, groups, name) for name in ("grpo", "dr_grpo", "rloo")}
    for i, (group, score) in enumerate(rows):
        others = [s for j, (g, s) in enumerate(rows) if g == group and j != i]
        if not others:
            assert all(values[i] == 0 for values in found.values())
            continue
        mean, deviation = statistics.fmean([score, *others]), statistics.stdev([score, *others])
        assert found["dr_grpo"][i] == pytest.approx(score - mean, abs=1e-9)
        assert found["grpo"][i] == pytest.approx((score - mean) / (deviation + EPSILON), abs=1e-6)
        assert found["rloo"][i] == pytest.approx(score - statistics.fmean(others), abs=1e-9)


def test_rloo_has_the_policy_gradient_of_the_whole_expectation() -> None:
    """Two answers each of a policy over three: mean of A * grad log pi over all draws is the gradient of E[score]."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    score = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (exact,) = torch.autograd.grad((logits.softmax(-1) * score).sum(), logits)
    total = torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=2):
        log = logits.log_softmax(-1)
        advantages = group_advantages([float(score[d]) for d in drawn], [0, 0], "rloo")
        loss = sum(a * log[d] for a, d in zip(advantages, drawn, strict=True)) / 2
        (gradient,) = torch.autograd.grad(loss, logits)
        total += gradient * math.prod(float(log[d].detach().exp()) for d in drawn)
    torch.testing.assert_close(total, exact, atol=1e-12, rtol=0)


def test_an_answer_without_a_score_is_no_part_of_its_group() -> None:
    scores, groups = [1.0, math.nan, 3.0, math.nan, 7.0], [0, 0, 0, 1, 1]
    for name in ("grpo", "dr_grpo", "rloo"):
        first, failed, second, *alone = group_advantages(scores, groups, name)
        assert [first, second] == group_advantages([1.0, 3.0], [0, 0], name)
        assert failed == 0 and alone == [0, 0]
    assert in_equal_groups(scores, groups) == [False, True, False, True, True]
    with pytest.raises(ValueError, match="compares no groups"):
        group_advantages([1.0, 2.0], [0, 0], "gae")


@given(st.integers(0, 10**6), RAGGED, st.floats(0.5, 1.0))
def test_reinforce_plus_plus_is_the_normalised_discounted_reward_to_come(
    seed: int, lengths: list[int], discount: float
) -> None:
    rewards, masks = _drawn(seed, lengths), _gappy(seed, lengths)
    to_come = []
    for part, mask in zip(_fp64(rewards), masks, strict=True):
        kept = [r for r, m in zip(part, mask.tolist(), strict=True) if m]
        to_come.append([sum(discount ** (k - t) * kept[k] for k in range(t, len(kept))) for t in range(len(kept))])
    flat = [x for row in to_come for x in row]
    found = estimated("reinforce++", rewards, masks, range(len(lengths)), discount)
    assert all(not a[~m].any() for a, m in zip(found, masks, strict=True))
    counted = [a[m].tolist() for a, m in zip(found, masks, strict=True)]
    if len(flat) < 2 or statistics.stdev(flat) < 1e-3:
        return
    mean, deviation = statistics.fmean(flat), statistics.stdev(flat)
    for row, expected in zip(counted, to_come, strict=True):
        assert row == pytest.approx([(x - mean) / deviation for x in expected], abs=1e-5)


@given(st.integers(0, 10**6), RAGGED)
def test_group_estimators_give_each_counted_token_its_sequences_advantage(seed: int, lengths: list[int]) -> None:
    rewards, masks = _drawn(seed, lengths), _gappy(seed + 1, lengths)
    groups = [n % 2 for n in range(len(lengths))]
    sums = [
        sum(r for r, m in zip(row, mask.tolist(), strict=True) if m)
        for row, mask in zip(_fp64(rewards), masks, strict=True)
    ]
    for name in ("grpo", "dr_grpo", "rloo"):
        found = estimated(name, rewards, masks, groups, 1.0)
        for advantage, part, mask in zip(group_advantages(sums, groups, name), found, masks, strict=True):
            assert part[mask].tolist() == pytest.approx([advantage] * int(mask.sum()), abs=1e-9)
            assert not part[~mask].any()
    based = torch.cat([a[m] for a, m in zip(estimated("reinforce++_baseline", rewards, masks, groups, 1.0), masks)])  # noqa: B905
    plain = torch.cat([a[m] for a, m in zip(estimated("dr_grpo", rewards, masks, groups, 1.0), masks)])  # noqa: B905
    if len(plain) > 1 and float(plain.std()) > 1e-3:
        torch.testing.assert_close(based, (plain - plain.mean()) / plain.std(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("length", "expected"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (140, -1)])
def test_the_overlong_penalty_is_dapos_equation_13(length: int, expected: float) -> None:
    assert overlong_penalty(length, 100, 20) == pytest.approx(expected)
    assert overlong_penalty(length, 100, 0) == 0.0


def test_groups_of_equal_scores_are_found() -> None:
    scores, groups = [1.0, 0.0, 1.0, 0.0, 1.0, 2.0], ["a", "b", "a", "c", "b", "d"]
    assert in_equal_groups(scores, groups) == [True, False, True, True, False, True]


@given(st.integers(0, 10**6), RAGGED)
def test_the_sequence_ratio_is_the_geometric_mean_and_its_gradient_reaches_every_token(
    seed: int, lengths: list[int]
) -> None:
    log_ratio = torch.cat(_drawn(seed, lengths, 0.3)).requires_grad_()
    by_sequence = sequence_log_ratio(log_ratio, lengths)
    start = 0
    for length in lengths:
        ratios = log_ratio.detach()[start : start + length].exp().tolist()
        expected = math.log(math.prod(ratios) ** (1 / length))
        assert by_sequence[start : start + length].tolist() == pytest.approx([expected] * length, abs=1e-9)
        start += length
    # With one advantage a sequence, GSPO's loss: mean over sequences of the clipped s_i A_i, differentiated as it is.
    advantages = _drawn(seed + 1, [1] * len(lengths))
    spread = torch.cat([a.expand(n) for a, n in zip(advantages, lengths, strict=True)])
    shares = token_shares(lengths, "sequences", 0)
    weights = torch.cat([torch.full((n,), s, dtype=torch.float64) for n, s in zip(lengths, shares, strict=True)])
    (ours,) = torch.autograd.grad((policy_loss(by_sequence, spread, 0.2, 0.3)[0] * weights).sum(), log_ratio)
    s = torch.stack([part.mean().exp() for part in log_ratio.split(lengths)])
    a = torch.cat(advantages)
    paper = -torch.minimum(s * a, s.clamp(0.8, 1.3) * a).mean()
    (theirs,) = torch.autograd.grad(paper, log_ratio)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@given(st.floats(-1, 1), st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3))
def test_the_upper_clip_holds_rising_ratios_alone(difference: float, advantage: float) -> None:
    log_ratio = torch.tensor([difference], dtype=torch.float64, requires_grad=True)
    loss, clipped = policy_loss(log_ratio, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.5)
    (slope,) = torch.autograd.grad(loss.sum(), log_ratio)
    ratio = math.exp(difference)
    beyond = (advantage > 0 and ratio > 1.5) or (advantage < 0 and ratio < 0.8)
    assert bool(clipped) == beyond and float(slope) == pytest.approx(0.0 if beyond else -advantage * ratio)


@given(st.integers(0, 10**6), RAGGED, st.sampled_from(["truncate", "mask"]), st.sampled_from(["token", "sequence"]))
def test_importance_weights_are_ratios_held_or_cut(seed: int, lengths: list[int], how: str, level: str) -> None:
    policy, sampler, masks = _drawn(seed, lengths, 0.5), _drawn(seed + 1, lengths, 0.5), _gappy(seed, lengths)
    for part, mask in zip(sampler, masks, strict=True):
        part[~mask] = math.nan  # an engine has no log-probability of a token that a tool wrote
    found = importance_weights(policy, sampler, masks, how, level, 1.5)
    for mine, theirs, mask, weights in zip(_fp64(policy), _fp64(sampler), masks, _fp64(found), strict=True):
        counted = [math.exp(p - q) if m else 1.0 for p, q, m in zip(mine, theirs, mask.tolist(), strict=True)]
        ratios = counted if level == "token" else [math.prod(counted)] * len(counted)
        held = [min(r, 1.5) if how == "truncate" else r * (1 / 1.5 <= r <= 1.5) for r in ratios]
        expected = [h if m else 1.0 for h, m in zip(held, mask.tolist(), strict=True)]
        assert weights == pytest.approx(expected, abs=1e-9)


def test_importance_weights_give_the_trainers_expectation_from_the_samplers_draws() -> None:
    trainer, sampler = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
    value = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    one = [torch.ones(1, dtype=torch.bool)]
    weights = [
        importance_weights([trainer[i : i + 1].log()], [sampler[i : i + 1].log()], one, "truncate", "token", 1e9)[0]
        for i in range(3)
    ]
    assert float((sampler * torch.cat(weights) * value).sum()) == pytest.approx(float((trainer * value).sum()))
    assert (
        importance_weights([torch.ones(2)], [torch.zeros(2)], [one[0].expand(2)], "none", "token", 2.0)[0].eq(1).all()
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any))
def test_shares_are_the_means_that_they_are_named_after(counts: list[int]) -> None:
    losses = [[float(7 * i + j * j) for j in range(n)] for i, n in enumerate(counts)]
    flat, means = [x for row in losses for x in row], [statistics.fmean(row) for row in losses if row]
    sums = [sum(row) / 12 for row in losses if row]
    for how, expected in (("tokens", flat), ("sequences", means), ("longest", sums)):
        shares = token_shares(counts, how, 12)
        total = sum(share * sum(row) for share, row in zip(shares, losses, strict=True))
        assert total == pytest.approx(statistics.fmean(expected))
