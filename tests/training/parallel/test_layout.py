"""Layouts that cannot be had are refused with the reason and with what to change; the others fit their ranks."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Shape
from tests.training.parallel.test_layouts import SHARDINGS

SHAPE = Shape(vocab_size=96, layers=4, hidden=64, kv_heads=4, queries_per_kv=2, head_dim=8, mlp_hidden=96)
SHARES = ("replica", "partial", "full")


@pytest.mark.parametrize("states", itertools.product(SHARES, repeat=3))
def test_of_all_combinations_of_shares_those_that_are_trained_in_the_table_are_accepted(states: Any) -> None:
    parameters, gradients, optimizer = states
    if states in SHARDINGS:
        assert Layout(parameters=parameters, gradients=gradients, optimizer=optimizer).optimizer == optimizer
    else:
        with pytest.raises(UserError, match="cannot be had: FSDP2"):
            Layout(parameters=parameters, gradients=gradients, optimizer=optimizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pp": 2}, "set gradients=replica"),
        ({"schedule": "zbv_zero_bubble"}, "zero-bubble schedules lose gradients"),
        ({"schedule": "interleaved", "pp": 2, "gradients": "replica"}, "at least 2 stages"),
        ({"virtual_stages": 2, "pp": 2, "gradients": "replica"}, "at least 2 stages"),
        ({"virtual_stages": 2, "schedule": "interleaved"}, "set pp above 1"),
        ({"sequence_parallel": True}, "set tp above 1"),
    ],
)
def test_what_is_wrong_in_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Layout(**settings)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(tp=8), "kv_heads=4; lower tp"),
        (Layout(tp=2, cp=4), "set cp_kind=gather or ring"),
        (Layout(pp=3, schedule="interleaved", virtual_stages=2, gradients="replica"), "6 stages for 4 layers"),
    ],
)
def test_what_the_model_cannot_be_split_into_is_refused(layout: Layout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.require_model(SHAPE, SHAPE.vocab_size)


@pytest.mark.parametrize(
    ("layout", "ranks", "message"),
    [
        (Layout(tp=4), 6, "6 workers are not dp"),
        (Layout(dp=3, tp=2), 8, "3 \\* 1 \\* 1 \\* 2"),
        (Layout(parameters="partial", shard_group=8), 8, "shard_group=8 must divide dp \\* cp = 8"),
        (Layout(parameters="partial", shard_group=3), 8, "shard_group=3 must divide"),
    ],
)
def test_what_the_ranks_cannot_be_is_refused(layout: Layout, ranks: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.on(ranks)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers=3"], "make batch_tokens a multiple"),
        (["layout.tp=3", "workers=3"], "tp=3 must divide kv_heads=2"),
        (["layout.pp=4", "layout.gradients=replica", "workers=4", "micro_tokens=2048"], "do not fill a pipeline"),
        (["layout.pq=4"], "did you mean"),
        (["layout.schedule=dualpipev"], "zero-bubble"),
    ],
)
def test_a_configuration_with_a_layout_that_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("nano", None, [f"training.{o}" for o in overrides])


@given(
    degrees=st.tuples(*[st.sampled_from([1, 2, 3, 4])] * 4),
    group=st.sampled_from([2, 3, 4, 8]),
    shares=st.sampled_from(SHARDINGS),
)
def test_a_layout_on_its_ranks_uses_all_of_them_and_splits_evenly(degrees: Any, group: int, shares: Any) -> None:
    dp, cp, pp, tp = degrees
    gradients = "replica" if pp > 1 else shares[1]
    settings = {"parameters": shares[0], "gradients": gradients, "optimizer": shares[2], "shard_group": group}
    try:
        layout = Layout(tp=tp, cp=cp, pp=pp, **settings).on(dp * cp * pp * tp)
    except UserError:
        partial = "partial" in (shares[0], gradients, shares[2])
        assert partial and not (1 < group < dp * cp and dp * cp % group == 0)
        return
    assert layout.dp == dp and layout.dp * layout.replica_ranks == dp * cp * pp * tp
    assert layout.sharding_ranks % layout.optimizer_group == 0
