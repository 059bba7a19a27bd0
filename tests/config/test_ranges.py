"""Ranges of settings: pydantic's JSON schema is the oracle; what lies outside is refused with the range."""

from collections.abc import Iterator
from typing import Any

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.ranges import Range, setting_ranges

ANY_NUMBER = {"text.rules"}  # bounds of scores, which rules of one's own may give any value


def numbers(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[tuple[str, Range]]:
    """(setting, range) of all numbers of a JSON schema."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        low, high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        yield path, Range(schema.get("minimum", low), schema.get("maximum", high), low is not None, high is not None)
    for name, inner in schema.get("properties", {}).items():
        yield from numbers(inner, definitions, f"{path}.{name}" if path else name)
    beside = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    beside += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for inner in beside:
        yield from numbers(inner, definitions, path)


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    schema = Config.model_json_schema()
    expected = list(numbers(schema, schema["$defs"]))
    found = [(name, r) for name, r in setting_ranges(Config)]
    assert sorted(found) == sorted(expected) and len(found) > 150
    without = {name for name, r in found if r.lowest is None or r.highest is None}
    assert without == ANY_NUMBER


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("sft.max_lr=-1e-4", "above 0 and at most 1"),
        ("ppo.policy_lr=0", "above 0 and at most 1"),
        ("training.betas=[0.9, 1.5]", "at least 0 and below 1"),
        ("ppo.top_p=0", "above 0 and at most 1"),
        ("ppo.temperature=0", "above 0 and at most 100"),
        ("sft.context=4", "at least 16 and at most 16777216"),
        ("pretrain.phases=[{name: a, steps: 1, context: 4, batch_tokens: 4, mixture: {en: 1}}]", "at least 16"),
        ("training.weight_decay=-0.1", "at least 0 and at most 1"),
        ("ppo.deadline_s=0", "above 0"),
        ("sft.pretrain_share=1", "at least 0 and below 1"),
        ("sft.epochs=1000000000000000000000000000000", "at least 1"),
        ("training.layout.tp=0", "at least 1"),
        ("serve.port=70000", "at least 0 and at most 65535"),
        ("ray.num_cpus=0", "at least 1"),
    ],
)
def test_a_value_outside_is_refused_with_the_range(setting: str, allowed: str) -> None:
    with pytest.raises(UserError, match=f"out of range, it must be {allowed}") as caught:
        load_config("nano", None, [setting])
    assert setting.partition("=")[0] in str(caught.value)


def test_a_truth_value_is_no_number() -> None:
    for setting in ("sft.epochs=yes", "ppo.kl_coefficient=on", "training.betas=[true, 0.9]"):
        with pytest.raises(UserError, match="write a number instead of true"):
            load_config("nano", None, [setting])


def test_a_rate_never_falls_below_its_end() -> None:
    with pytest.raises(UserError, match=r"min_lr=0\.1 is above max_lr=0\.01"):
        load_config("nano", None, ["reward.max_lr=0.01", "reward.min_lr=0.1"])
