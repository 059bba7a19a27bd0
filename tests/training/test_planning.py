"""layout=auto in a configuration, and what the planner decides for each training of a run."""

from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.layout import Layout
from ilm_ray.config.load import save_config
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.decide import decide
from ilm_ray.training.plan.elastic import usable
from ilm_ray.training.plan.forecast import checkpoint_bytes, forecast
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.stretches import Stretches, stretches
from ilm_ray.training.plan.trainings import Training, fine_tuning, pretraining, reward_training

H100, CPU = DEVICES["h100"], DEVICES["cpu"]


def test_auto_is_a_layout_and_other_words_are_not(tmp_path: Path) -> None:
    config = load_config("nano", overrides=["training.layout=auto", "training.workers=7"])
    assert config.training.layout == "auto"  # and seven workers, which share no batch of nano: not known yet
    save_config(config, tmp_path / "saved.yaml")
    assert load_config("nano", tmp_path / "saved.yaml") == config
    assert load_config("nano", tmp_path / "saved.yaml", ["training.layout={tp: 1}", "training.workers=1"])
    with pytest.raises(UserError, match=r"training\.layout' .* is a section"):
        load_config("nano", overrides=["training.layout=fastest"])
    with pytest.raises(UserError, match=r"setting 'training\.layout\.tp'"):
        load_config("nano", overrides=["training.layout.tp=many"])
    with pytest.raises(UserError, match=r"batch_tokens=\d+ must be a multiple"):
        load_config("7b", overrides=["training.layout=auto", "pretrain.phases=" + _phase(context=4095)])


def _phase(context: int) -> str:
    return (
        f"[{{name: a, steps: 1, context: {context}, rope_base: 1.0e4, batch_tokens: 4194304, max_lr: 1.0e-4, "
        "mixture: {en: 1.0}}]"
    )


def test_the_work_is_the_phases() -> None:
    config = load_config("7b")
    works = _pretraining(config).works
    assert [work.step.context for work in works] == [4096, 32768, 32768]
    assert [work.step.tokens for work in works] == [phase.batch_tokens for phase in config.pretrain.phases]
    assert [work.step.at_once for work in works] == [8, 1, 1]  # of 32,768 tokens
    # Report section 3.3: about 90%, about 9%, 24.4B tokens.
    tokens = [work.step.tokens * work.steps for work in works]
    assert tokens[0] / sum(tokens) == pytest.approx(0.9, abs=0.01)
    assert tokens[2] == pytest.approx(24.4e9, rel=1e-3)


def _pretraining(config: Config) -> Training:
    return pretraining(config, shape_of(config, config.tokenizer.vocab_size))


def _stretches(config: Config, ranks: int) -> Stretches:
    return stretches(_pretraining(config), ranks, config.training.workers, CPU)


@pytest.mark.parametrize("ranks", [2, 5, 8])
def test_stretches_cover_all_steps_with_layouts_of_the_ranks_that_are_used(ranks: int) -> None:
    config = load_config("nano", overrides=["training.layout=auto"])
    shape = shape_of(config, 2048)
    planned = _stretches(config, ranks)
    assert planned.used <= ranks and planned.why.startswith(f"short_context: {ranks} workers")
    assert [stretch.until for stretch in planned.all] == [420, 510, 570]
    for stretch, phase in zip(planned.all, config.pretrain.phases, strict=True):
        layout = stretch.layout
        assert layout.dp is not None and layout.dp * layout.replica_ranks == planned.used
        layout.require_model(shape, 2048)
        layout.require_batch(phase.name, phase.sequences, stretch.at_once)
        assert phase.context * stretch.at_once <= max(config.training.micro_tokens, phase.context)


def test_what_is_set_is_taken_as_it_is_on_the_workers_that_are_set() -> None:
    config = load_config("nano", overrides=["training.layout={tp: 2}", "training.workers=4"])
    planned = _stretches(config, 4)
    assert {stretch.layout for stretch in planned.all} == {Layout(tp=2).on(4)} and planned.why == ""


def test_a_named_layout_is_kept_on_the_workers_that_there_are() -> None:
    config = load_config("nano", overrides=["training.layout={tp: 2}", "training.workers=8"])
    choice = decide(_pretraining(config), 5, 8, CPU)
    assert all((plan.layout.dp, plan.layout.tp) == (2, 2) for plan in choice.plans)
    assert choice.why.startswith("5 workers: dp2 tp2, full/full/full, 1 idle; 16, 4 sequences a step: 8, 2 each; ")


def test_nano_trains_on_two_workers_as_it_always_did() -> None:
    """Bit for bit: the layout that every run of the demo had, whole shares of a step in one micro-batch."""
    config = load_config("nano")
    training = _pretraining(config)
    parts = _stretches(config, 2).all
    assert [part.layout for part in parts] == [Layout().on(2)] * 3
    for work, part in zip(training.works, parts, strict=True):
        assert part.at_once * 2 == work.step.sequences, "all that a rank reads in a step goes forward at once"
    for dealt in (fine_tuning(config, training.shape), reward_training(config, training.shape)):
        (part,) = stretches(dealt, 2, 2, CPU).all
        assert (part.layout, part.micro_tokens) == (Layout().on(2), 32_768)


@pytest.mark.long
def test_phases_apart_are_never_slower_than_in_a_layout_of_all() -> None:
    training = _pretraining(load_config("7b"))
    together = usable(None, 8, training.shape, H100, training.works)
    apart = decide(training, 8, 8, H100)
    for plan, common in zip(apart.plans, together.plans, strict=True):
        assert plan.times.total <= common.times.total
    rows = forecast(training, apart, 8)
    assert rows[0].tokens_per_second == pytest.approx(8 * apart.plans[0].tokens_per_second)
    assert rows[0].device_seconds == 8 * rows[0].seconds


@pytest.mark.parametrize("preset", ["mini", "1_8b"])
def test_fine_tuning_and_reward_model_fit_where_they_once_did_not(preset: str) -> None:
    """On 24-GB cards with the planner's recomputation and rows; a pair of the longest sequences stays together."""
    config = load_config(preset)
    shape, small = shape_of(config, config.tokenizer.vocab_size), DEVICES["rtx4090"]
    for dealt, least in (
        (fine_tuning(config, shape), config.sft.context),
        (reward_training(config, shape), 2 * config.reward.context),
    ):
        planned = stretches(dealt, 8, 8, small)
        (part,), (plan,) = planned.all, decide(dealt, 8, 8, small).plans
        assert plan.memory.total <= small.usable_memory and part.layout.pp == 1
        assert least <= part.micro_tokens <= max(least, config.training.micro_tokens)
        assert part.micro_tokens % least == 0 and part.micro_tokens == plan.step.at_once * plan.step.context


def test_checkpoints_have_twelve_bytes_a_parameter() -> None:
    """7.74B parameters: counted from the released InternLM2-7B."""
    training, weights = checkpoint_bytes(shape_of(load_config("7b"), 92544))
    assert weights / 2 == pytest.approx(7.738e9, rel=1e-3) and training == 6 * weights
