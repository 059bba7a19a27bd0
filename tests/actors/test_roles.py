"""Actor classes without Ray: who may serve, who sees the condition, and one gradient whatever the layout."""

import itertools
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from toy import END, FAMILY, REWARD, toy_inputs, toy_models, toy_ppo

from actors.ppo.policy import Policy, PolicySettings
from actors.ppo.reference import FrozenSettings, Reference
from actors.ppo.reward import Reward
from actors.ppo.roles import Inputs, reward_settings, rollout_settings
from actors.ppo.rollout import Rollout
from actors.ppo.weights import Arrived, WeightMessage, checksum, cut_by_bytes, pack
from ilm_ray.alignment.ppo.arithmetic import policy_loss
from ilm_ray.alignment.ppo.digest import digests
from ilm_ray.alignment.ppo.experience import Experience, Prompt, Rollouts, response_labels
from ilm_ray.base.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.names import Weights, from_engine
from ilm_ray.model.weights import full_weights, load_causal, load_scalar, save_internlm2


def test_an_engine_is_asked_for_no_more_tokens_than_the_policy_knows(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path)
    policy = load_causal(inputs.policy)
    policy.model.shape = replace(policy.shape, context=24)
    save_internlm2(policy, inputs.policy)
    assert rollout_settings(toy_ppo(), inputs, "torch").max_tokens == 24
    with pytest.raises(UserError, match=r"max_new_tokens = 25 tokens lie beyond the 24"):
        rollout_settings(toy_ppo(max_new_tokens=9), inputs, "torch")


def _engine_and_weights(inputs: Inputs) -> tuple[Rollout, WeightMessage | None, dict[str, Any]]:
    """An engine without weights; the reference's weights as a message, and its stamp."""
    rollout = Rollout(0, 1, rollout_settings(toy_ppo(), inputs, "torch"))
    rollout.build()
    reference = Reference(0, 1, FrozenSettings(inputs.policy, 4096, 4096, "fp32"))
    reference.build()
    message, stamp = reference.weights()
    return rollout, message, stamp


def test_an_engine_serves_verified_current_weights_only(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path)
    rollout, message, stamp = _engine_and_weights(inputs)
    with pytest.raises(RuntimeError, match="verified ones are None"):
        rollout.rollout(inputs.prompts, 0, 1)
    rollout.load_weights(message, 0, stamp["checksum"])
    rolled, _ = rollout.rollout(inputs.prompts, 0, 1)
    again, _ = rollout.rollout(inputs.prompts, 0, 1)
    assert rolled.version == 0 and rolled.responses == again.responses
    with pytest.raises(RuntimeError, match="version 1 are asked for"):
        rollout.rollout(inputs.prompts, 1, 1)
    later, announced = pack([*message.open(1.0)], 1)
    with pytest.raises(RuntimeError, match=r"version 2 with .* was announced"):  # a transfer that came too late
        rollout.load_weights(later, 2, announced["checksum"])
    with pytest.raises(RuntimeError, match="verified ones are None"):  # and the old ones are not served any more
        rollout.rollout(inputs.prompts, 0, 1)


def _changed(weights: Weights, how: str) -> tuple[Weights, str]:
    """One tensor off by a little, or two of equal shape swapped; the word that must name it."""
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    if how == "swapped":
        return {**weights, gate: weights[up], up: weights[gate]}, f"{gate}, {up}$"
    return {
        **weights,
        up: weights[up] + torch.zeros_like(weights[up]).index_fill_(0, torch.tensor([1]), 1e-6),
    }, f"{up}$"


def arrived_of(message: WeightMessage) -> Arrived:
    """The digests of a message that an engine takes and does not load."""
    arrived = Arrived(1)
    list(arrived.watch(message.open(1.0), torch.device("cpu")))
    return arrived


@pytest.mark.parametrize("how", ["corrupted", "swapped"])
def test_weights_that_change_on_their_way_or_in_the_engine_are_named(tmp_path: Path, how: str) -> None:
    inputs = toy_inputs(tmp_path)
    rollout, message, stamp = _engine_and_weights(inputs)
    (weights,) = message.open(1.0)
    other, named = _changed(weights, how)
    with pytest.raises(RuntimeError, match=f"changed on their way: {named}"):
        rollout.load_weights(replace(message, buckets=[other]), 0, stamp["checksum"])

    # What arrived was right: an engine that loads something else, or keeps what it had.
    engine: Any = rollout.engine
    load, changed = engine.load, replace(message, buckets=[other])
    engine.load = lambda good: (load(changed), arrived_of(good))[1]
    with pytest.raises(RuntimeError, match=f"does not hold the weights of version 0 that it loaded: {named}"):
        rollout.load_weights(message, 0, stamp["checksum"])
    engine.load = arrived_of
    with pytest.raises(RuntimeError, match=f"does not hold .*: {named}"):
        rollout.load_weights(message, 0, stamp["checksum"])

    # After all checks.
    engine.load = load
    rollout.load_weights(message, 0, stamp["checksum"])
    rollout.rollout(inputs.prompts, 0, 1)
    load(changed)
    with pytest.raises(RuntimeError, match=f"weights of version 0 changed after they were loaded: {named}"):
        rollout.rollout(inputs.prompts, 0, 1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_the_temperature_that_samples_is_that_of_the_log_probabilities(tmp_path: Path, temperature: float) -> None:
    inputs, ppo = toy_inputs(tmp_path), toy_ppo(temperature=temperature)
    rollout = Rollout(0, 1, rollout_settings(ppo, inputs, "torch"))
    rollout.build()
    reference = Reference(0, 1, FrozenSettings(inputs.policy, 4096, 4096, "fp32", temperature=temperature))
    reference.build()
    message, stamp = reference.weights()
    rollout.load_weights(message, 0, stamp["checksum"])
    rolled, _ = rollout.rollout(inputs.prompts, 0, 1)
    model = load_causal(inputs.policy)
    plain = generate(model, [p.ids for p in inputs.prompts], 8, temperature, 0.9, [END], 1)
    assert rolled.responses == [ids for ids, _ in plain]  # drawn as ever
    logprobs, _ = reference.logprobs(rolled)
    for number, (ids, prompt) in enumerate(zip(rolled.responses, inputs.prompts, strict=True)):
        with torch.no_grad():
            logits = model(Packed.of([prompt.ids + ids]))[len(prompt.ids) - 1 : -1] / temperature
        expected = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(rolled.behaviour[number], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(logprobs[number], expected, atol=1e-4, rtol=0)


def test_the_checksum_sees_bytes_names_shapes_and_types() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.arange(6.0)}
    others: list[dict[str, torch.Tensor]] = [
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).bfloat16(), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1.0, 1.0 + 1e-7])},
    ]
    assert checksum(digests(base)) == checksum(digests(same))
    assert len({checksum(digests(o)) for o in [base, *others]}) == 5


def test_a_sleeping_engine_serves_nothing_until_weights_come_again(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path)
    rollout, message, stamp = _engine_and_weights(inputs)
    rollout.load_weights(message, 0, stamp["checksum"])
    before, _ = rollout.rollout(inputs.prompts, 0, 1)
    rollout.sleep()
    engine: Any = rollout.engine
    assert all(parameter.is_meta for parameter in engine.model.parameters())  # it holds no memory
    with pytest.raises(RuntimeError, match="verified ones are None"):
        rollout.rollout(inputs.prompts, 0, 1)
    rollout.load_weights(message, 0, stamp["checksum"])
    assert rollout.rollout(inputs.prompts, 0, 1)[0].responses == before.responses


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=12), st.integers(1, 60))
def test_buckets_keep_the_order_and_the_limit(sizes: dict[str, int], limit: int) -> None:
    parts = cut_by_bytes(sizes, limit)
    assert [name for part in parts for name in part] == list(sizes)
    assert all(len(part) == 1 or sum(sizes[name] for name in part) <= limit for part in parts)
    # No two neighbours would have fitted together.
    heads = [sum(sizes[n] for n in a) + sizes[b[0]] for a, b in itertools.pairwise(parts)]
    assert all(load > limit for load in heads)


def test_only_the_reward_model_sees_the_condition_and_the_end_of_the_turn(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path)
    reward = Reward(0, 1, reward_settings(toy_ppo(), inputs))
    reward.build()
    prompts = [Prompt("a", "code", [1, 10, 11]), Prompt("b", "helpful", [1, 10, 11])]
    rolled = Rollouts(prompts, [[20, END], [20, 21]], [torch.zeros(2), torch.zeros(2)], 0)
    scores, _ = reward.score(rolled)
    model = load_scalar(inputs.reward)
    by_hand = [[1, 40, 41, 10, 11, 20, END, 5, REWARD], [1, 42, 43, 44, 10, 11, 20, 21, REWARD]]
    with torch.no_grad():
        expected = [float(model(Packed.of([ids]))[-1]) for ids in by_hand]
    assert [scores[0], scores[1]] == pytest.approx(expected, abs=1e-6)


class FixedMix:
    """Pre-training sequences without a corpus: one piece a sequence, four tokens each."""

    def pieces(self, number: int) -> list[int]:
        return [number]

    def pack(self, numbers: list[int]) -> tuple[Packed, torch.Tensor]:
        sequences = [[50 + n, 60 + n % 7, 70, 71 + n % 5] for n in numbers]
        labels = [t for ids in sequences for t in [*ids[1:], IGNORE]]
        return Packed.of(sequences), torch.tensor(labels)


def _experience() -> Experience:
    generator = torch.Generator().manual_seed(0)
    lengths = [(3, 9), (2, 5), (4, 12), (1, 3), (5, 8)]
    sequences = [torch.randint(6, 90, (n,), generator=generator).tolist() for _, n in lengths]
    masks = [torch.rand(n - p, generator=generator) < 0.8 for p, n in lengths]
    old = [-3.0 - torch.rand(n - p, generator=generator) for p, n in lengths]
    advantages = [torch.randn(n - p, generator=generator) for p, n in lengths]
    weights, prompts = [torch.ones_like(part) for part in old], [p for p, _ in lengths]
    return Experience(sequences, prompts, masks, old, advantages, advantages, advantages, old, weights, 0)


LR, CONTEXT = 0.5, 4


def _ppo() -> Any:
    return toy_ppo(policy_lr=LR, clip_norm=1e6, pretrain_share=0.5, clip_range=0.5, temperature=0.7)


def _train_rank(
    rank: int, world: int, folder: Path, store: Path, micro_tokens: int, stage: int, recompute: Literal["none", "full"]
) -> None:
    """One rank trains one step on the fixed experience with plain SGD and leaves the weights in `folder`."""
    import os

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    import deepspeed  # noqa: F401 - it derives classes from AdamW when it is imported

    torch.optim.AdamW = lambda parameters, lr, **_: torch.optim.SGD(parameters, lr=lr)  # type: ignore[misc, assignment]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    ppo = _ppo().model_copy(update={"policy_zero_stage": stage})
    policy = Policy(rank, world, PolicySettings(ppo, folder / "policy", 7, micro_tokens, 4096, None))
    policy.recompute = recompute
    policy.build()
    policy.mixture = FixedMix()  # type: ignore[assignment]
    from ilm_ray.alignment.pretrain_data import PretrainMix

    policy.settings = PolicySettings(ppo, folder / "policy", 7, micro_tokens, 4096, PretrainMix(folder, {}, CONTEXT))
    _, figures = policy.train(_experience(), 0, 3)
    message, _ = policy.weights()
    if rank == 0:
        assert message is not None
        torch.save(
            (from_engine({n: t for part in message.open(1.0) for n, t in part.items()}, FAMILY), figures),
            folder / f"world{world}-stage{stage}.pt",
        )
    dist.destroy_process_group()


def _by_hand(folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The same step in one piece: plain autograd, one mean over all tokens."""
    model, experience, ppo = load_causal(folder / "policy"), _experience(), _ppo()
    batch, labels = response_labels(experience.sequences, experience.prompt_lengths)
    chosen = labels != IGNORE
    # Positions with a label are exactly the response tokens, in order.
    new = (model(batch) / ppo.temperature).log_softmax(-1)[chosen].gather(1, labels[chosen, None])[:, 0]
    mask, old, advantages = (
        torch.cat(parts) for parts in (experience.masks, experience.old_logprobs, experience.advantages)
    )
    each, _ = policy_loss(new[mask] - old[mask], advantages[mask], ppo.clip_range)
    tokens = sum(map(len, experience.sequences))
    count = round(ppo.pretrain_share * tokens / CONTEXT)
    pretrain_batch, pretrain_labels = FixedMix().pack(list(range(3, 3 + count)))
    pretrain = model(pretrain_batch, pretrain_labels)
    pretrain_mean = pretrain.sum() / (pretrain_labels != IGNORE).sum()
    (each.mean() + ppo.pretrain_coefficient * pretrain_mean).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= LR * parameter.grad
    return full_weights(model), float(each.mean().detach())


STAGES = [
    *(pytest.param(2, 12, stage, "none", marks=pytest.mark.slow) for stage in (0, 1, 3)),
    *(pytest.param(2, 12, stage, "full", marks=pytest.mark.slow) for stage in (0, 1, 3)),
]


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("world", "micro_tokens", "stage", "recompute"), [(1, 4096, 2, "none"), (2, 12, 2, "full"), *STAGES]
)
def test_one_gradient_whatever_the_ranks_micro_batches_and_recomputation(
    tmp_path: Path, world: int, micro_tokens: int, stage: int, recompute: Literal["none", "full"]
) -> None:
    toy_models(tmp_path, FAMILY)
    context = multiprocessing.get_context("spawn")
    arguments = (world, tmp_path, tmp_path / "store", micro_tokens, stage, recompute)
    ranks = [context.Process(target=_train_rank, args=(rank, *arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(90)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * world
    weights, figures = torch.load(tmp_path / f"world{world}-stage{stage}.pt", weights_only=True)
    expected, loss = _by_hand(tmp_path)
    assert figures["policy_loss"] == pytest.approx(loss, abs=1e-5)
    before = full_weights(load_causal(tmp_path / "policy"))
    assert max(float((expected[n] - before[n]).abs().max()) for n in before) > 1e-2  # the step was no formality
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-5)
