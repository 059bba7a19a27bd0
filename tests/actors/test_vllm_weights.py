"""vLLM's own parameters are read back: an engine that keeps old weights, or whose weights change, is found out."""

import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.ppo.channel import SENDER, Channel, Meeting
from actors.ppo.engines import VLLM_ENV, RolloutSettings, choose_backend
from actors.ppo.rollout import Rollout
from actors.ppo.weights import Arrived, announce, pack
from ilm_ray.alignment.ppo.digest import digests
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.model.generate import generate
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.names import to_engine, to_llama
from ilm_ray.model.shape import RopeScaling
from ilm_ray.model.weights import full_weights, load_causal, save_internlm2

SHAPE = Shape(vocab_size=500, layers=2, hidden=64, kv_heads=2, queries_per_kv=2, head_dim=32, mlp_hidden=96)


def _weights(seed: int) -> dict[str, torch.Tensor]:
    model = CausalLM(SHAPE)
    initialize(model, seed)
    return to_llama(full_weights(model), SHAPE)


def _said(act: Any, *arguments: Any) -> str:
    try:
        act(*arguments)
    except RuntimeError as error:
        return str(error)
    return ""


def _check(folder: Path, precision: str, settings: RolloutSettings, prompts: list[Prompt]) -> None:
    """In a process of its own, as vLLM keeps global state, and with no more imported than an engine's rank has: vLLM
    looks through all modules and trips over llvmlite's. Leaves what was said in `folder`."""
    os.environ.update(VLLM_ENV)
    rollout = Rollout(0, 1, settings)
    rollout.build()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    first, second = ({n: t.to(dtype) for n, t in _weights(seed).items()} for seed in (0, 1))
    errors = []
    for version, weights in enumerate((first, second)):
        message, stamp = pack([weights], version)
        errors.append(_said(rollout.load_weights, message, version, stamp["checksum"]))
        errors.append(_said(rollout.rollout, prompts, version, 1))
    whole = sum(rollout.held[name] == digest for name, digest in digests(second).items())
    engine: Any = rollout.engine
    load = engine.load
    message, stamp = pack([first], 2)
    arrived = Arrived(1)
    list(arrived.watch([first], torch.device("cpu")))
    engine.load = lambda message: arrived  # keeps the old weights
    errors.append(_said(rollout.load_weights, message, 2, stamp["checksum"]))
    up = "model.layers.1.mlp.up_proj.weight"
    engine.load = lambda message: (load(pack([{**first, up: second[up]}], 2)[0]), arrived)[1]  # one tensor stays old
    errors.append(_said(rollout.load_weights, message, 2, stamp["checksum"]))
    engine.load = load
    errors.append(_said(rollout.load_weights, message, 2, stamp["checksum"]))
    norm = "model.layers.0.input_layernorm.weight"
    load(pack([{**first, norm: first[norm] + 0.5}], 2)[0])  # after all checks
    errors.append(_said(rollout.rollout, prompts, 2, 1))
    (folder / "said.txt").write_text("\n".join([str(whole), str(len(second)), *errors]))


def _check_parallel(folder: Path, settings: RolloutSettings, prompts: list[Prompt]) -> None:
    """As `_check`, for an engine of two workers that weights reach through a channel."""
    os.environ.update(VLLM_ENV, GLOO_SOCKET_IFNAME="lo")
    rollout = Rollout(0, 1, settings)
    rollout.build()
    meeting = Meeting(3)
    place = (meeting.host, meeting.port)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(Channel, place, SENDER, 3, torch.device("cpu"), 60.0)
        rollout.join_channel(place, 1, 3)
        channel = joining.result()
        errors, answers = [], []
        up = "model.layers.1.mlp.up_proj.weight"
        for version, (seed, changes) in enumerate(((0, {}), (1, {}), (0, {up: _weights(1)[up]}))):
            message, stamp = announce([_weights(seed)], version)
            sending = pool.submit(channel.send, {**_weights(seed), **changes})
            errors.append(_said(rollout.load_weights, message, version, stamp["checksum"]))
            sending.result()
            if not changes:
                answers.append(rollout.rollout(prompts, version, 1)[0].responses)
    (folder / "said.json").write_text(json.dumps([errors, answers]))


@pytest.mark.slow
def test_an_engine_of_two_workers_gets_its_weights_through_a_channel(tmp_path: Path) -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    from actors.ppo.roles import rollout_settings
    from tests.actors.toy import toy_inputs, toy_ppo

    inputs = toy_inputs(tmp_path)
    models = []
    for seed in (1, 0):
        model = CausalLM(SHAPE)
        initialize(model, seed)
        save_internlm2(model, tmp_path / "policy")
        models.insert(0, model)
    ppo = toy_ppo(temperature=0.0, max_prompt_tokens=32, engine_gpus=2)
    arguments = (tmp_path, rollout_settings(ppo, inputs, "vllm"), inputs.prompts)
    _run(_check_parallel, arguments)
    errors, answers = json.loads((tmp_path / "said.json").read_text())
    assert errors[:2] == ["", ""] and errors[2].endswith("changed on their way: model.layers.1.mlp.up_proj.weight")
    for model, responses in zip(models, answers, strict=True):
        expected = generate(model, [p.ids for p in inputs.prompts], 8, 0.0, stop_ids=inputs.chat.stop_ids)
        assert responses == [ids for ids, _ in expected]


def _run(check: Any, arguments: tuple[Any, ...]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=check, args=arguments)
    process.start()
    process.join(280)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_vllm_really_holds(tmp_path: Path, precision: str) -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    from actors.ppo.roles import rollout_settings
    from tests.actors.toy import toy_inputs, toy_ppo  # not at the top, which the other process reads, too

    inputs = toy_inputs(tmp_path)
    model = CausalLM(SHAPE)
    initialize(model, 0)
    save_internlm2(model, tmp_path / "policy")
    settings = rollout_settings(toy_ppo(precision=precision, max_prompt_tokens=32), inputs, "vllm")
    arguments = (tmp_path, precision, settings, inputs.prompts)
    _run(_check, arguments)
    whole, count, *errors = (tmp_path / "said.txt").read_text().split("\n")
    print(f"{precision}: {whole} of {count} tensors are read whole")
    assert errors[:4] == [""] * 4  # two versions, one after the other
    kept, one_old, good, changed = errors[4:]
    assert "does not hold the weights of version 2" in kept and "more" in kept
    assert one_old.endswith("it loaded: model.layers.1.mlp.up_proj.weight")
    assert good == ""
    assert changed.endswith("changed after they were loaded: model.layers.0.input_layernorm.weight")


# Shapes that the families' own classes in vLLM serve: biases of one projection, a tied head, QK norm.
SQUARE = replace(SHAPE, hidden=128)  # vLLM's Qwen2 takes hidden / heads for the width of a head
FAMILIES = {
    "qwen2": replace(SQUARE, family="qwen2", qkv_bias=True, tied=True),
    "qwen3": replace(SHAPE, family="qwen3", qk_norm=True, tied=True, rope_scaling=RopeScaling("yarn", 2.0, 64)),
    "llama": replace(SHAPE, family="llama", qkv_bias=True, out_bias=True, mlp_bias=True),
    "mistral": replace(SHAPE, family="mistral"),
    "internlm3": replace(SHAPE, family="internlm3", qkv_bias=True),
}


def _check_family(folder: Path, settings: RolloutSettings, prompts: list[Prompt]) -> None:
    os.environ.update(VLLM_ENV)
    rollout = Rollout(0, 1, settings)
    rollout.build()
    message, stamp = pack([to_engine(full_weights(load_causal(folder / "policy")), settings.shape)], 0)
    error = _said(rollout.load_weights, message, 0, stamp["checksum"])
    answers = rollout.rollout(prompts, 0, 1)[0].responses
    (folder / "said.json").write_text(json.dumps([error, sorted(rollout.held), answers]))


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_serves_each_family_with_its_own_class(family: str, tmp_path: Path) -> None:
    if choose_backend("auto") != "vllm":
        pytest.skip("vLLM is not installed: run `make setup`")
    from actors.ppo.roles import rollout_settings
    from tests.actors.toy import toy_inputs, toy_ppo

    inputs = toy_inputs(tmp_path)
    model = CausalLM(FAMILIES[family])
    initialize(model, 0)
    with torch.no_grad():  # biases and norms that do something
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(4)
    save_internlm2(model, tmp_path / "policy")
    settings = rollout_settings(toy_ppo(temperature=0.0, max_prompt_tokens=32), inputs, "vllm")
    _run(_check_family, (tmp_path, settings, inputs.prompts))
    error, held, answers = json.loads((tmp_path / "said.json").read_text())
    assert error == "" and held == sorted(to_engine(full_weights(model), model.shape))
    expected = generate(model, [p.ids for p in inputs.prompts], 8, 0.0, stop_ids=inputs.chat.stop_ids)
    assert answers == [ids for ids, _ in expected]
