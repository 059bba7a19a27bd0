"""The table of shares in docs/plans.md is what Layout accepts."""

import itertools
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config.layout import Layout, Share
from ilm_ray.training.plan.shardings import SHARES, refusal, sharding_table

MESSAGES = {"a": "split the optimizer at least as far", "b": "set gradients to", "c": "set gradients to"}


@pytest.mark.parametrize(("parameters", "gradients", "optimizer"), itertools.product(SHARES, repeat=3))
def test_the_table_says_what_a_layout_does(parameters: Share, gradients: Share, optimizer: Share) -> None:
    reason = refusal(parameters, gradients, optimizer)
    if reason is None:
        Layout(parameters=parameters, gradients=gradients, optimizer=optimizer)
        return
    with pytest.raises(UserError, match=MESSAGES[reason]):
        Layout(parameters=parameters, gradients=gradients, optimizer=optimizer)


def test_the_page_has_the_table() -> None:
    table = sharding_table()
    assert table in (Path(__file__).parents[3] / "docs" / "plans.md").read_text()
    assert table.count("yes") - 1 == sum(refusal(*shares) is None for shares in itertools.product(SHARES, repeat=3))
