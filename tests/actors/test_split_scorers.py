"""Reference and reward model split over ranks: the numbers of a whole copy, and a part of the memory on each rank."""

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from ray import cloudpickle
from torch import nn
from toy import SHAPE, inputs_of, toy_inputs, toy_ppo

from actors.group import Role, collect, start_groups, stop_groups, timed
from actors.ppo import roles
from actors.ppo.driver import PPORun
from actors.ppo.member import Member
from actors.ppo.reference import FrozenSettings, Reference
from actors.ppo.reward import Reward
from actors.ppo.roles import reward_settings
from ilm_ray.alignment.ppo.experience import Rollouts
from ilm_ray.base.errors import UserError
from ilm_ray.model.initial import share_of
from ilm_ray.training.plan.alignment_memory import Work, frozen_memory
from tests.processes import run_ranks

# Workers cannot import a test module by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _rollouts(folder: Path) -> Rollouts:
    prompts = inputs_of(folder).prompts
    responses = [[(11 * i + 7 * j) % 80 + 6 for j in range(1 + (3 * i) % 8)] for i in range(len(prompts))]
    return Rollouts(prompts, responses, [torch.zeros(len(ids)) for ids in responses], 0)


def _scorers(folder: Path, rank: int, gpus: int, precision: str) -> tuple[Reference, Reward]:
    """Both models of a copy over `gpus` ranks; micro-batches of a few sequences, chunks of a few logits."""
    inputs = inputs_of(folder, micro_tokens=30)
    ppo = toy_ppo(scorer_gpus=gpus, reference_ranks=gpus, reward_ranks=gpus, precision=precision)
    reference = Reference(rank, gpus, FrozenSettings(inputs.policy, 30, 9, precision, gpus))
    reward = Reward(rank, gpus, reward_settings(ppo, inputs))
    reference.build()
    reward.build()
    return reference, reward


def _held(model: nn.Module) -> int:
    """Bytes of a model's parameters on this rank."""
    return sum(local.numel() * local.element_size() for local, _ in map(share_of, model.parameters()))


def _score(folder: Path) -> None:
    rank, ranks, rolled = dist.get_rank(), dist.get_world_size(), _rollouts(folder)
    for precision in BOUNDS:
        reference, reward = _scorers(folder, rank, ranks, precision)
        logprobs, scores = reference.logprobs(rolled)[0], reward.score(rolled)[0]
        held = [_held(reference.model), _held(reward.model)]
        torch.save((logprobs, scores, held), folder / f"{precision}-{rank}.pt")


# The largest rounding between two orders of summation in a toy's log-probabilities and scores.
BOUNDS: dict[Literal["fp32", "bf16"], float] = {"fp32": 1e-5, "bf16": 0.05}


@pytest.mark.ranks
def test_a_split_copy_gives_the_numbers_of_a_whole_one_and_no_rank_holds_it(tmp_path: Path) -> None:
    toy_inputs(tmp_path)
    rolled = _rollouts(tmp_path)
    run_ranks(_score, 2, tmp_path)
    for precision, bound in BOUNDS.items():
        reference, reward = _scorers(tmp_path, 0, 1, precision)
        logprobs, (scores, _) = reference.logprobs(rolled)[0], reward.score(rolled)
        first, second = (torch.load(tmp_path / f"{precision}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert logprobs.keys() == first[0].keys() and scores.keys() == first[1].keys()
        for number, expected in logprobs.items():
            torch.testing.assert_close(first[0][number], expected, atol=bound, rtol=0)
        assert list(first[1].values()) == pytest.approx(list(scores.values()), abs=bound)
        assert second[:2] == ({}, {})  # each sequence has one answer
        work = Work(SHAPE, 30, 9, precision)
        for number, model in enumerate((reference.model, reward.model)):
            head = number == 0
            assert _held(model) == frozen_memory(work, head, 1).resident
            assert first[2][number] == second[2][number] == frozen_memory(work, head, 2).resident


class Adder(Member):
    """Adds up the numbers of the ranks that it forms a process group with."""

    def __init__(self, rank: int, world: int, settings: Any) -> None:
        self.number, self.device = rank, torch.device("cpu")

    @timed
    def build(self) -> tuple[None, dict[str, Any]]:
        total = torch.tensor([self.number])
        dist.all_reduce(total)
        self.total = int(total)
        return None, {}

    @timed
    def added(self) -> tuple[None, dict[str, Any]]:
        return None, {"total": self.total}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_ranks_of_a_copy_meet_each_other_in_one_bundle() -> None:
    groups = start_groups([Role("adder", Adder, None, ranks=4, cpus=0.1, copy_ranks=2)], "copies", 60)
    try:
        assert [row["total"] for row in collect([groups["adder"].start("added")], 30)[0]] == [1, 1, 5, 5]
        assert groups["adder"].placement.bundle_specs == [{"CPU": 0.2}] * 2
    finally:
        stop_groups(groups)


def test_a_model_that_cannot_be_split_so_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "cluster_gpus", lambda: 0)
    ppo = toy_ppo(scorer_gpus=4, reference_ranks=4, reward_ranks=4)
    with pytest.raises(UserError, match=r"policy: ppo\.scorer_gpus=4 must divide the model's kv_heads=2; set"):
        roles.ppo_roles(ppo, toy_inputs(tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_with_split_scorers_has_the_rewards_of_one_with_whole_ones(tmp_path: Path) -> None:
    """Apart and whole against colocated and split: `colocate` alone changes no number (tests/chaos)."""
    inputs = toy_inputs(tmp_path)
    split = {"scorer_gpus": 2, "reference_ranks": 4, "reward_ranks": 2, "colocate": True}
    rows = []
    for name, changes in (("whole", dict[str, Any]()), ("split", split)):
        with PPORun(toy_ppo(validate_every=1, **changes), inputs, tmp_path / name) as run:
            rows.append(run.run(lambda ids: ""))
    figures = {"reward", "kl", "policy_loss", "value_loss", "validation_reward", "response_tokens"}
    whole, split_rows = ([{k: v for k, v in row.items() if k in figures} for row in run_rows] for run_rows in rows)
    for expected, row in zip(whole, split_rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    assert figures == set().union(*whole)
