"""layout=auto in a configuration, and what the planner is told of the phases."""

from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.layout import Layout
from ilm_ray.config.load import save_config
from ilm_ray.training.plan.devices import DEVICES
from ilm_ray.training.plan.phases import checkpoint_bytes, choose_layouts, forecast, training_layout, work_of
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.stretches import stretches

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
    works = work_of(config)
    assert [work.step.context for work in works] == [4096, 32768, 32768]
    assert [work.step.tokens for work in works] == [phase.batch_tokens for phase in config.pretrain.phases]
    assert [work.step.at_once for work in works] == [8, 1, 1]  # of 32,768 tokens
    # Report section 3.3: about 90%, about 9%, 24.4B tokens.
    tokens = [work.step.tokens * work.steps for work in works]
    assert tokens[0] / sum(tokens) == pytest.approx(0.9, abs=0.01)
    assert tokens[2] == pytest.approx(24.4e9, rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 5, 8])
def test_stretches_cover_all_steps_with_layouts_of_the_ranks_that_are_used(ranks: int) -> None:
    config = load_config("nano", overrides=["training.layout=auto"])
    shape = shape_of(config, 2048)
    planned = stretches(config, shape, ranks, None)
    assert planned.used <= ranks and planned.why.startswith(f"{ranks} workers")
    assert [stretch.until for stretch in planned.all] == [420, 510, 570]
    for stretch, phase in zip(planned.all, config.pretrain.phases, strict=True):
        layout = stretch.layout
        assert layout.dp is not None and layout.dp * layout.replica_ranks == planned.used
        layout.require_model(shape, 2048)
        layout.require_batch(phase.name, phase.sequences, stretch.at_once)
        assert phase.context * stretch.at_once <= max(config.training.micro_tokens, phase.context)


def test_what_is_set_is_taken_as_it_is_on_the_workers_that_are_set() -> None:
    config = load_config("nano", overrides=["training.layout={tp: 2}", "training.workers=4"])
    planned = stretches(config, shape_of(config, 2048), 4, "Tesla T4")
    assert {stretch.layout for stretch in planned.all} == {Layout(tp=2).on(4)} and planned.why == ""


def test_a_named_layout_is_kept_on_the_workers_that_there_are() -> None:
    config = load_config("nano", overrides=["training.layout={tp: 2}", "training.workers=8"])
    choice = training_layout(config, 2048, 5, CPU)
    assert isinstance(choice.layout, Layout) and (choice.layout.dp, choice.layout.tp) == (2, 2)
    assert choice.why.startswith("5 workers: dp2 tp2, full/full/full, 1 idle; 16, 4 sequences a step: 8, 2 each; ")


@pytest.mark.long
def test_a_phase_alone_is_never_slower_than_in_the_layout_of_all() -> None:
    config = load_config("7b", overrides=["training.layout=auto"])
    together, alone = training_layout(config, 92544, 8, H100), choose_layouts(config, 92544, 8, H100)
    for plan, choice in zip(together.plans, alone, strict=True):
        assert choice.plans[0].times.total <= plan.times.total
    rows = forecast(config.pretrain.phases, together.plans, 8)
    assert sum(row.seconds for row in rows) == pytest.approx(together.seconds)
    assert rows[0].tokens_per_second == pytest.approx(8 * together.plans[0].tokens_per_second)
    assert rows[0].device_seconds == 8 * rows[0].seconds


def test_checkpoints_have_twelve_bytes_a_parameter() -> None:
    """7.74B parameters: counted from the released InternLM2-7B."""
    training, weights = checkpoint_bytes(load_config("7b"), 92544)
    assert weights / 2 == pytest.approx(7.738e9, rel=1e-3) and training == 6 * weights
