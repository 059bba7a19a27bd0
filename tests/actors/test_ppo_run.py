"""PPO end to end on real actor groups with a toy model."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file
from toy import SHAPE, toy_inputs, toy_mix, toy_ppo

from actors.group import GroupError, Role, collect, start_groups, stop_groups
from actors.ppo import driver
from actors.ppo.driver import PPORun, State
from actors.ppo.engines import VLLM_ENV, choose_backend
from actors.ppo.log import lines
from actors.ppo.reference import FrozenSettings, Reference
from actors.ppo.roles import rollout_settings
from actors.ppo.rollout import Rollout
from actors.scoring import _score
from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.base.errors import UserError
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.model.weights import load_causal, save_internlm2
from ilm_ray.run.lock import only_driver
from ilm_ray.run.stopping import ASKED, Stopped


def _kinds(value: Any) -> set[type]:
    if isinstance(value, dict):
        return set().union(*(_kinds(v) for v in value.values())) if value else set()
    if isinstance(value, (list, tuple)):
        return set().union(*(_kinds(v) for v in value)) if value else set()
    return {type(value)}


@pytest.mark.usefixtures("local_ray")
def test_a_run_learns_fails_loudly_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: set[type] = set()
    get = ray.get

    def watched(*args: Any, **kwargs: Any) -> Any:
        value = get(*args, **kwargs)
        fetched.update(_kinds(value))
        return value

    monkeypatch.setattr(ray, "get", watched)
    ppo, inputs, folder = toy_ppo(), toy_inputs(tmp_path, toy_mix(tmp_path)), tmp_path / "ppo"
    with PPORun(ppo, inputs, folder) as run:
        # A line separator that JSON leaves as it is must not tear a sample apart when the log is read again.
        rows = run.run(lambda ids: "\u2028".join(map(str, ids)))
        # One warm-up iteration with the policy frozen, on top of two with a new version each.
        assert [row["version"] for row in rows] == [0, 0, 1] and run.state.version == 2
        assert [row["warmup"] for row in rows] == [True, False, False]
        assert rows[1]["kl"] == 0.0 and rows[2]["kl"] != 0.0
        assert all(row["logprob_gap"] < 1e-4 for row in rows)
        # What the engine received is what the policy has now.
        run.send_weights()
        stamps = collect([run.groups["policy"].start("weights")], 60)[0]
        sent = collect([run.groups["rollout"].start("status")], 60)[0]
        assert sent[0]["version"] == stamps[0]["version"] == 2
        assert sent[0]["checksum"] == stamps[0]["checksum"]
        assert fetched <= {int, float, str, bool, type(None)}

        # Each iteration's experience was kept, and doing its arithmetic again gives the same numbers.
        for row in rows:
            box = blackbox.read(folder, row["iteration"])
            largest, differences = blackbox.replay(box)
            assert not differences and max(largest.values()) <= 1e-6
            assert sum(box.outputs.scores) / len(box.outputs.scores) == pytest.approx(row["reward"], abs=1e-9)
            assert box.outputs.rolled.version == row["version"]

        # Going on from the checkpoint ends with the same weights; what is not committed does not count.
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["iteration-000002"]
        (folder / "checkpoints" / "iteration-000003").mkdir()
        resumed = PPORun(ppo, inputs, folder)
        resumed.groups.update(run.groups)
        resumed.recovery.restore()
        _finish_again(resumed, rows)

        # A dead reward model is named at once, though others wait for its scores.
        threading.Timer(0.01, lambda: ray.kill(run.groups["reward"].actors[0])).start()
        started = time.monotonic()
        with pytest.raises(GroupError, match=r"reward-0 .*DEAD(.|\n)*reward-0 died: "):
            for _ in range(1000):
                resumed.recovery.restore()
                resumed.loop(lambda ids: "")
        assert time.monotonic() - started < 30


def sequences(run: PPORun, row: dict[str, Any]) -> int:
    """Pre-training sequences that an iteration takes."""
    assert run.inputs.pretrain is not None
    return round(run.ppo.pretrain_share * row["tokens"] / run.inputs.pretrain.context)


def _finish_again(run: PPORun, rows: list[dict[str, Any]]) -> None:
    """Finish a resumed run and compare with the uninterrupted one, whose rows and model are there."""
    used = sequences(run, rows[1])
    assert used > 1 and run.state == State(2, 1, used)
    path = run.folder / "model" / "model.safetensors"
    uninterrupted = load_file(path)
    path.unlink()
    again = run.run(lambda ids: "")
    assert [row["iteration"] for row in again] == [0, 1, 2]
    assert again[2]["reward"] == pytest.approx(rows[2]["reward"], abs=1e-6)
    # The next pre-training sequences, neither those of the iteration before nor later ones.
    assert again[2]["pretrain_loss"] == pytest.approx(rows[2]["pretrain_loss"], abs=1e-5)
    assert run.state.cursor == used + sequences(run, rows[2])
    for name, weight in load_file(path).items():
        torch.testing.assert_close(weight, uninterrupted[name], atol=1e-6, rtol=1e-5)
    samples = [json.loads(line) for line in lines(run.folder / "samples.jsonl")]
    assert {s["domain"] for s in samples} == {"code", "helpful"}


@pytest.mark.usefixtures("local_ray")
def test_answers_of_the_weights_before_are_trained_on_as_such(tmp_path: Path) -> None:
    ppo, inputs, folder = toy_ppo(iterations=3, staleness=1), toy_inputs(tmp_path), tmp_path / "ppo"
    begun: list[tuple[str, str]] = []
    with PPORun(ppo, inputs, folder) as run:
        for name, group in run.groups.items():
            start = group._start
            group._start = lambda method, args, name=name, start=start: (  # type: ignore[method-assign]
                begun.append((name, method)),
                start(method, args),
            )[1]
        rows = run.run(lambda ids: "")
    # The first that trains the policy is on-policy, for the warm-up before it left the policy as it was.
    assert [row["staleness"] for row in rows] == [0, 0, 1, 1] and [row["version"] for row in rows] == [0, 0, 0, 1]
    assert ["logprob_gap" in row for row in rows] == [True, True, False, False]
    # Sampling for the next iteration is under way before the policy trains.
    order = [who for who in begun if who in (("rollout", "rollout"), ("policy", "train"))]
    assert (
        order
        == [("rollout", "rollout")] * 3 + [("policy", "train"), ("rollout", "rollout")] + [("policy", "train")] * 2
    )
    outputs = blackbox.read(folder, 2).outputs
    first = load_causal(inputs.policy)
    for ids, length, behaviour, old in zip(
        outputs.rolled.sequences, outputs.rolled.prompt_lengths, outputs.rolled.behaviour, outputs.old, strict=True
    ):
        with torch.no_grad():
            logprobs = first(Packed.of([ids])).log_softmax(-1)
        of_first = logprobs[length - 1 : -1].gather(1, torch.tensor(ids[length:])[:, None])[:, 0]
        torch.testing.assert_close(behaviour, of_first, atol=1e-4, rtol=0)
        assert torch.equal(old, behaviour)


@pytest.mark.slow  # a minute and a half: three whole runs
@pytest.mark.usefixtures("local_ray")
def test_every_way_of_weights_and_sleeping_engines_end_with_the_same_weights(tmp_path: Path) -> None:
    """Two engines: apart with the object store, apart with a broadcast, and on one placement, asleep in between."""
    inputs = toy_inputs(tmp_path, toy_mix(tmp_path))
    runs = []
    for name, changes in (
        ("store", {"weight_transfer": "object_store"}),
        ("broadcast", {"weight_transfer": "broadcast"}),
        ("asleep", {"colocate": True}),
    ):
        ppo = toy_ppo(rollout_engines=2, critic_warmup=0, **changes)
        begun: list[str] = []
        with PPORun(ppo, inputs, tmp_path / name) as run:
            for group in run.groups.values():
                start = group._start
                group._start = lambda method, args, start=start, begun=begun: (  # type: ignore[method-assign]
                    begun.append(method),
                    start(method, args),
                )[1]
            rows = run.run(lambda ids: "")
        for row in rows:
            del row["seconds"], row["weight_bytes"]
        assert ("send_weights" in begun) == (name == "broadcast")
        assert begun.count("sleep") == (2 if name == "asleep" else 0)
        runs.append((rows, (tmp_path / name / "model" / "model.safetensors").read_bytes()))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_stopped_run_saves_where_it_is_and_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    ppo = toy_ppo(checkpoint_every=100, staleness=staleness)
    inputs = toy_inputs(tmp_path, toy_mix(tmp_path))
    with PPORun(ppo, inputs, tmp_path / "whole") as run:
        whole = run.run(lambda ids: "")

    monkeypatch.setattr(driver, "SAMPLE_EVERY", 1)
    at, folder = 1 + staleness, tmp_path / "stopped"  # with staleness: while answers of older weights are on their way

    def stop(ids: list[int]) -> str:  # called as each iteration is logged
        if len(lines(folder / "metrics.jsonl")) == at and not (folder / ASKED).exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return ""

    with PPORun(ppo, inputs, folder) as run, pytest.raises(Stopped, match=f"stopped after {at} of 3"):
        run.run(stop)
    with PPORun(ppo, inputs, folder) as run:
        assert run.state.iteration == at
        again = run.run(lambda ids: "")
    for rows in (whole, again):
        for row in rows:
            del row["seconds"], row["weight_bytes"]
    assert again == whole
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_new_processes_resume_a_run_to_the_same_weights(tmp_path: Path) -> None:
    ppo, inputs, folder = toy_ppo(), toy_inputs(tmp_path, toy_mix(tmp_path)), tmp_path / "ppo"
    with PPORun(ppo, inputs, folder) as run:
        rows = run.run(lambda ids: "")
    with PPORun(ppo, inputs, folder) as run:
        _finish_again(run, rows)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_policy_that_validates_best_is_the_result(tmp_path: Path) -> None:
    # Steps so long that the policy soon ruins itself.
    ppo = toy_ppo(iterations=5, validate_every=1, checkpoint_every=1, policy_lr=0.3)
    inputs, folder = toy_inputs(tmp_path), tmp_path / "ppo"
    with PPORun(ppo, inputs, folder) as run:
        rows = run.run(lambda ids: "")
        rewards = [row.get("validation_reward") for row in rows]
        assert rewards[0] is None  # of the warm-up, in which the policy stands still
        best = max(range(1, len(rows)), key=lambda i: rewards[i])
        assert run.state.best == best + 1 and run.state.best_reward == rewards[best]
    assert best < len(rows) - 1, "choose other steps: the last one must not be the best"
    kept = folder / "candidates" / f"iteration-{best + 1:06d}" / "model.safetensors"
    assert (folder / "model" / "model.safetensors").read_bytes() == kept.read_bytes()
    # The candidate scores again what it scored then.
    with PPORun(ppo, replace(inputs, policy=folder / "model"), tmp_path / "again") as run:
        assert run.validate() == pytest.approx(rewards[best], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_learners_of_different_sizes_and_stages_end_with_the_weights_of_single_ranks(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path, toy_mix(tmp_path), micro_tokens=64)
    models = []
    for name, sizes in (
        ("alone", {"policy_ranks": 1, "critic_ranks": 1}),
        ("sharded", {"policy_ranks": 2, "critic_ranks": 2, "policy_zero_stage": 3, "critic_zero_stage": 2}),
    ):
        with PPORun(toy_ppo(**sizes), inputs, tmp_path / name) as run:
            rows = run.run(lambda ids: "")
        models.append((load_file(tmp_path / name / "model" / "model.safetensors"), rows))
    (alone, its), (sharded, theirs) = models
    start = load_file(inputs.policy / "model.safetensors")
    for name, weight in alone.items():
        off, moved = (sharded[name] - weight).abs().flatten(), (weight - start[name]).norm()
        # Adam's step is as long for a gradient of 1e-9 as for one of 1: where the sum over ranks, in another order,
        # leaves a gradient that is rounding only, that weight goes its own way. So: nearly every weight far closer
        # than a step of 1e-3, and all together as nothing beside the way that the tensor went.
        assert off.quantile(0.999) <= 1e-6, name
        assert off.norm() <= 1e-4 * moved, name
    for ours, other in zip(its, theirs, strict=True):
        assert other["value_loss"] == pytest.approx(ours["value_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_scoring_a_policy_against_itself_finds_no_divergence(tmp_path: Path) -> None:
    inputs = toy_inputs(tmp_path)
    rows = _score(toy_ppo(), inputs, inputs.policy)
    assert sorted(row["id"] for row in rows) == sorted(p.id for p in inputs.prompts)
    assert all(row["kl"] == 0.0 and len(row["response"]) > 0 for row in rows)
    other = CausalLM(SHAPE)
    initialize(other, 9)
    save_internlm2(other, tmp_path / "other")
    assert sum(row["kl"] for row in _score(toy_ppo(), inputs, tmp_path / "other")) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_vllm_gives_the_torch_models_greedy_tokens_after_every_swap(tmp_path: Path) -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    shape = Shape(vocab_size=2048, layers=4, hidden=128, kv_heads=2, queries_per_kv=2, head_dim=32, mlp_hidden=384)
    for seed in (0, 1):
        model = CausalLM(shape)
        initialize(model, seed)
        with torch.no_grad():  # sharper than at initialisation, so that greedy choices are no ties
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        save_internlm2(model, tmp_path / f"model{seed}")
    inputs = toy_inputs(tmp_path)
    prompts = [Prompt(str(i), "code", [1, *range(5 + i, 9 + 2 * i)]) for i in range(6)]
    ppo = toy_ppo(temperature=0.0, max_prompt_tokens=32, max_new_tokens=16)
    settings = rollout_settings(ppo, inputs, "vllm")
    settings = settings.__class__(**{**vars(settings), "shape": shape})
    roles = [Role("rollout", Rollout, settings, cpus=0.5, env=VLLM_ENV)]
    roles += [Role(f"model{i}", Reference, FrozenSettings(tmp_path / f"model{i}", 4096, 4096, "fp32")) for i in (0, 1)]
    groups = start_groups(roles, f"test-{time.time_ns()}", 180)
    try:
        for seed in (0, 1):
            sent = groups[f"model{seed}"].start("weights")
            stamp = collect([sent], 60)[0][0]
            loaded = groups["rollout"].start("load_weights", sent.payloads[0], 0, stamp["checksum"])
            collect([loaded], 60)
            rolled = groups["rollout"].start("rollout", prompts, 0, 0)
            collect([rolled], 60)
            rollouts = ray.get(rolled.payloads[0])
            expected = generate(load_causal(tmp_path / f"model{seed}"), [p.ids for p in prompts], 16, 0.0)
            assert rollouts.responses == [ids for ids, _ in expected]
            for ours, (_, theirs) in zip(rollouts.behaviour, expected, strict=True):
                torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-4, rtol=0)
    finally:
        stop_groups(groups)


@pytest.mark.usefixtures("local_ray")
def test_a_second_driver_of_a_folder_is_refused_before_any_group_starts(tmp_path: Path) -> None:
    ppo, inputs, folder = toy_ppo(), toy_inputs(tmp_path, toy_mix(tmp_path)), tmp_path / "ppo"
    folder.mkdir()
    run = PPORun(ppo, inputs, folder)
    with (
        only_driver(folder, "another script"),
        pytest.raises(UserError, match=r"ppo is in use by another script on host"),
        run,
    ):
        pass
    assert not run.groups
