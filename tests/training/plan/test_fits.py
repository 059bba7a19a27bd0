"""Every preset and stage on every machine: it fits, or is refused with a command that is accepted."""

import re
from collections.abc import Sequence

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.load import PRESETS, with_settings
from ilm_ray.run.gpus import Gpu
from ilm_ray.training.plan.cards import known_device
from ilm_ray.training.plan.decide import decide
from ilm_ray.training.plan.devices import GIB
from ilm_ray.training.plan.fits import Machine, misfit, require_fit
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.trainings import trainings

COUNTS = (1, 2, 4, 8, 32, 64)
CARDS = {24: "NVIDIA GeForce RTX 4090", 40: "NVIDIA A100-SXM4-40GB", 80: "NVIDIA H100 80GB HBM3", 141: "NVIDIA H200"}
STAGES = ("pretrain", "sft", "reward", "ppo")
COMMAND = re.compile(r"; (?:set|use) ((?:[\w.]+=\S+ ?)+|--preset \w+)")


def machine(gpus: int, gigabytes: int, capability: tuple[int, int] = (8, 0)) -> Machine:
    """As the driver reports such cards."""
    card = known_device(CARDS[gigabytes])
    return Machine(256.0, gpus, 4096.0, Gpu(CARDS[gigabytes], card.memory, capability))


def obeyed(config: Config, message: str) -> Config:
    """The configuration after what a refusal says."""
    command = COMMAND.search(message)
    assert command is not None and "\n" not in message, message
    words = command[1].rstrip(",").split()
    return load_config(words[1]) if words[0] == "--preset" else with_settings(config, words)


def check(config: Config, where: Machine, stages: Sequence[str]) -> str:
    """Asserts that the stages fit, or that what the refusal names makes them; returns what was said."""
    try:
        require_fit(config, where, stages)
    except UserError as error:
        changed = obeyed(config, str(error))
        require_fit(changed, where, stages)
        return str(error)
    return "fits"


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS)
# Half a minute for four cards: one of them in `make test`.
@pytest.mark.parametrize("gigabytes", [g if g == 80 else pytest.param(g, marks=pytest.mark.slow) for g in CARDS])
def test_every_stage_fits_or_is_refused_with_a_command_that_is_accepted(preset: str, gigabytes: int) -> None:
    config, said = load_config(preset), dict[tuple[int, str], str]()
    for gpus in COUNTS:
        for stage in STAGES:
            said[gpus, stage] = check(config, machine(gpus, gigabytes), [stage])
        said[gpus, "all"] = check(config, machine(gpus, gigabytes), STAGES)
    for (gpus, stage), line in said.items():
        print(f"{preset} {stage} on {gpus} x {gigabytes} GB: {line}")
    if preset in ("nano", "mini"):  # counts follow from the GPUs
        assert {said[gpus, stage] for gpus in COUNTS for stage in STAGES[:3]} == {"fits"}


NAMED = {
    "7b": ["training.workers=8", "training.layout={parameters: full}"],
    "1_8b": ["training.layout={parameters: replica}", "training.micro_tokens=131072"],
    "20b": ["training.workers=64", "training.layout={tp: 8, sequence_parallel: true}"],
    "mini": ["training.layout={parameters: full}", "training.micro_tokens=262144"],
}


@pytest.mark.parametrize("preset", NAMED)
def test_a_named_layout_that_is_too_large_is_refused_with_what_makes_it_fit(preset: str) -> None:
    config = load_config(preset, None, NAMED[preset])
    refused = 0
    for gigabytes in CARDS:
        where = machine(config.training.workers, gigabytes)
        line = check(config, where, ("pretrain", "sft"))
        refused += line != "fits"
    assert refused


def test_the_smallest_change_is_named_first() -> None:
    """The order: the planner's layout, recomputation, smaller micro-batches, workers, another preset."""
    where = machine(8, 80)
    named = load_config("7b", None, ["training.workers=8", "training.layout={parameters: full}"])
    with pytest.raises(UserError, match=r"pretrain, phase \w+: dp8, full/full/full needs 1\d\d\.\d GiB of the 71\.2"):
        require_fit(named, where, ["pretrain"])
    assert check(named, where, ["pretrain"]).endswith("; set training.layout=auto")
    again = with_settings(named, ["training.layout.recompute=full"])
    assert misfit(again, where, ["pretrain"]) is None, "the second change would do as well"


def test_counts_are_refused_with_what_takes_fewer() -> None:
    assert check(load_config("7b"), machine(8, 80), ["pretrain"]).endswith("; set training.workers=8")
    assert "ray.fewer_ranks=true" in check(load_config("1_8b"), machine(4, 80), ["ppo"])


def test_a_reference_that_no_card_holds_is_split() -> None:
    """20b's weights take 37 GiB in bfloat16; with as many learners' ranks as it takes, nothing else is too large."""
    ranks = ["ppo.policy_ranks=32", "ppo.critic_ranks=32", "ppo.engine_gpus=4", "training.micro_tokens=16384"]
    line = check(load_config("20b", None, ranks), machine(104, 40), ["ppo"])
    assert line.endswith("; set ppo.scorer_gpus=2")
    with pytest.raises(UserError, match=r"ppo\.scorer_gpus=3 must divide the model's kv_heads=8"):
        require_fit(
            load_config("20b", None, [*ranks, "ppo.scorer_gpus=3", "ppo.reference_ranks=3", "ppo.reward_ranks=3"]),
            machine(104, 40),
            ["ppo"],
        )


def test_cards_without_bfloat16_are_refused() -> None:
    line = check(load_config("mini"), machine(1, 24, capability=(7, 5)), ["sft"])
    assert line.endswith("; set training.precision=fp32 ppo.precision=fp32")
    assert check(load_config("nano"), machine(1, 24, capability=(7, 5)), STAGES) == "fits"


def test_without_gpus_nano_alone_is_named() -> None:
    with pytest.raises(UserError, match=r"cluster offers 32 GiB and no GPU; use --preset nano"):
        require_fit(load_config("7b"), Machine(64, 0, 32.0))
    require_fit(load_config("nano"), Machine(4, 0, 8.0))


@pytest.mark.parametrize(
    ("preset", "settings", "gpus"),
    [
        ("mini", [], 1),
        ("mini", [], 3),
        pytest.param("1_8b", ["training.workers=4"], 4, marks=pytest.mark.long),
        pytest.param("7b", ["training.workers=8"], 8, marks=pytest.mark.long),
    ],
)
def test_what_fits_has_a_decision_within_the_memory(preset: str, settings: list[str], gpus: int) -> None:
    """The run's own decision for each training, on the device as the worker sees it."""
    where, stages = machine(gpus, 40), ("pretrain", "sft", "reward")
    config = require_fit(load_config(preset, None, settings), where, stages)
    assert where.gpu is not None
    device, shape = known_device(where.gpu.name, where.gpu.memory), shape_of(config, config.tokenizer.vocab_size)
    workers = config.training.workers
    for training in trainings(config, shape, stages):
        decision = decide(training, workers, workers, device)
        assert decision.used <= workers <= where.gpus
        for plan in decision.plans:
            assert plan.memory.total <= device.usable_memory < device.memory - GIB


def test_a_budget_that_holds_no_sequence_of_ppo_is_refused() -> None:
    config = load_config("1_8b", None, ["training.micro_tokens=3000"])
    line = check(config, machine(32, 80), ["ppo"])
    assert "ppo.pretrain_context" in line and line.endswith("; set training.micro_tokens=4096")
