"""Memory of PPO's ranks: the learners' real steps traced with fake tensors; refusals that name a way which works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn

from ilm_ray.alignment.ppo.arithmetic import policy_loss, value_loss
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.fit import check_ppo_fits, fitted, gpus_needed
from ilm_ray.model.internlm2 import Attention, CausalLM, Packed, ScalarModel
from ilm_ray.training.parallel.recompute import recompute_blocks
from ilm_ray.training.plan.alignment_memory import (
    Work,
    kept_activations,
    learner_memory,
    ppo_changes,
    ppo_misfit,
    ppo_rank_memory,
    work_of,
)
from tests.training.parallel.tracking import Tracker

GIB = 2**30
ROLLOUT = 2048  # tokens of a sequence


def _kernel(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, cu_k: Tensor | None = None) -> Any:
    """Attention as on CUDA; a CPU's keeps other tensors."""
    return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, window_size=(-1, 0), enable_gqa=True)


def _policy(work: Work) -> tuple[CausalLM, Callable[[Packed], Tensor]]:
    model = CausalLM(work.shape, work.loss_chunk)

    def loss(batch: Packed) -> Tensor:
        new = -model(batch, torch.zeros_like(batch.tokens))
        return policy_loss(new - new.detach(), torch.ones_like(new), 0.2)[0].mean()

    return model, loss


def _critic(work: Work) -> tuple[ScalarModel, Callable[[Packed], Tensor]]:
    model = ScalarModel(work.shape)

    def loss(batch: Packed) -> Tensor:
        values = model(batch)
        return value_loss(values, torch.zeros_like(values), values.detach(), 0.2).mean()

    return model, loss


def _traced(work: Work, role: Callable[[Work], Any]) -> tuple[int, int]:
    """Bytes that a step keeps after its forward, and at its peak, without weights and without their gradients."""
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        try:
            model, loss = role(work)
        finally:
            torch.set_default_dtype(torch.float32)
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = _kernel
        recompute_blocks(model, "full")
        borders = torch.zeros(work.rows // ROLLOUT + 1, dtype=torch.int32)
        batch = Packed(
            torch.zeros(work.rows, dtype=torch.long), torch.zeros(work.rows, dtype=torch.long), borders, ROLLOUT
        )
        with Tracker() as tracker:
            for tensor in (*model.parameters(), batch.tokens, batch.positions, batch.cu_seqlens):
                tensor.detach().view(-1)
            before = tracker.live
            value = loss(batch)
            kept = tracker.live - before

            def give_away(parameter: Tensor) -> None:  # as ZeRO does: reduced to a share, then free
                parameter.grad = None

            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(give_away)
            tracker.peak = tracker.live
            value.backward()
            return kept, tracker.peak - before


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "role"),
    [
        ("1_8b", _policy),
        ("7b", _policy),
        ("20b", _policy),
        ("7b", _critic),
        *(pytest.param(preset, _critic, marks=pytest.mark.slow) for preset in ("1_8b", "20b")),
    ],
)
def test_predicted_activations_are_those_of_the_real_step(preset: str, role: Callable[[Work], Any]) -> None:
    work = work_of(load_config(preset))
    kept, peak = _traced(work, role)
    predicted = learner_memory(work, 8, 2, vocabulary_head=role is _policy)
    without_bucket = predicted.activations + predicted.transient - 2 * 500_000_000
    print(
        f"{preset} {role.__name__} {work.rows} tokens: kept {kept / GIB:.2f} GiB, predicted "
        f"{kept_activations(work) / GIB:.2f}; peak {peak / GIB:.2f}, predicted {without_bucket / GIB:.2f}"
    )
    assert predicted.activations == kept_activations(work) == pytest.approx(kept, rel=0.05)
    assert without_bucket == pytest.approx(peak, rel=0.05)


def test_states_are_those_of_zero() -> None:
    """Per parameter on n ranks: 2 + 2 + 12 bytes, then each of them over n (arXiv 1910.02054, figure 1)."""
    work = work_of(load_config("7b"))
    count = work.parameters(True)
    states = {
        stage: learner_memory(work, 8, stage, True).resident + learner_memory(work, 8, stage, True).gradients
        for stage in (0, 1, 2, 3)
    }
    expected = {0: 16.0, 1: 2 + 2 + 12 / 8, 2: 2 + 14 / 8, 3: 16 / 8}
    assert {stage: pytest.approx(count * each, rel=1e-6) for stage, each in expected.items()} == states


def test_parameters_are_those_of_the_model() -> None:
    work = work_of(load_config("nano"))
    with torch.device("meta"):
        models = CausalLM(work.shape), ScalarModel(work.shape)
    assert [work.parameters(True), work.parameters(False)] == [sum(p.numel() for p in m.parameters()) for m in models]


CARDS = (24, 40, 80, 141)


@pytest.mark.parametrize("preset", ["nano", "mini", "1_8b", "7b", "20b"])
def test_changes_make_room_where_there_is_none(preset: str) -> None:
    """Apart, cards of 80 GB and more are enough for every preset, some with a change that is named."""
    for colocate in (False, True):
        config = load_config(preset, None, [f"ppo.colocate={colocate}"])
        for gpus in (8, 32, 64):
            if gpus < gpus_needed(config).ppo:
                continue
            for card in CARDS:
                change = next(ppo_changes(config, card * GIB, gpus), None)
                if ppo_misfit(config, card * GIB, gpus) is None:
                    continue
                assert change is not None or colocate or card < 80
                if change is not None:
                    changed = fitted(load_config(preset, None, [f"ppo.colocate={colocate}", *change]), gpus)
                    check_ppo_fits(changed.ppo, gpus)
                    assert ppo_misfit(changed, card * GIB, gpus) is None


def test_a_shared_device_holds_what_is_awake_at_a_time() -> None:
    """Sleep saves the engine's weights and cache while the learners train; with staleness nothing sleeps."""
    asleep, awake = (
        ppo_rank_memory(load_config("1_8b", None, ["ppo.colocate=true", f"ppo.staleness={n}"]), 80 * GIB, 8)
        for n in (0, 1)
    )
    assert asleep.peak < awake.peak and asleep.room.cache(80 * GIB) >= awake.room.cache(80 * GIB)
    shared = asleep.ranks
    apart = ppo_rank_memory(load_config("1_8b"), 80 * GIB, 32)
    assert apart.peak <= 80 * GIB and max(rank.total for rank in apart.ranks.values()) <= apart.peak
    residents = sum(rank.resident for name, rank in shared.items() if name != "rollout_engines")
    assert asleep.least > residents + shared["rollout_engines"].resident


def test_an_engine_over_several_gpus_has_a_part_of_weights_and_cache_on_each() -> None:
    whole, half = (
        ppo_rank_memory(load_config("20b", None, [f"ppo.engine_gpus={n}"]), 80 * GIB, 64).ranks["rollout_engines"]
        for n in (1, 2)
    )
    assert half.resident == pytest.approx(whole.resident / 2)
    with pytest.raises(UserError, match="engine_gpus=2 needs several"):
        load_config("20b", None, ["ppo.engine_gpus=2", "ppo.colocate=true"])
    assert gpus_needed(load_config("20b", None, ["ppo.engine_gpus=2"])).ppo == 40
