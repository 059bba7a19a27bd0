"""Which stages a run has and what each training begins with: cases by hand, from the settings alone."""

from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.named_data import NO_PRETRAINING, steps_off
from ilm_ray.config.road import (
    STAGES,
    Role,
    begins_with,
    brings_tokenizer,
    brought,
    check_start,
    in_effect,
    initial,
    initial_folder,
    stages_on,
)

NO_TEXT = ["input=null"]
ROLES: tuple[Role, ...] = ("pretrain", "sft", "reward", "policy", "reward_model")
DATA = "text code decontamination tokenizer tokens"


def _config(*words: str) -> Config:
    return load_config("nano", None, words)


@pytest.mark.parametrize(
    ("words", "stages", "folders", "tokenizer"),
    [
        ([], " ".join(STAGES), "- pretrain/model sft/model sft/model reward/model", None),
        (
            ["base=/m"],
            f"base/model {' '.join(STAGES)}",
            "base/model pretrain/model sft/model sft/model reward/model",
            "base/model",
        ),
        (
            ["base=/m", "from=sft", *NO_TEXT],
            "base/model tokenizer sft reward ppo online evaluation",
            "* base/model sft/model sft/model reward/model",
            "base/model",
        ),
        (
            ["base=/m", "from=sft"],  # with web archives
            f"base/model {DATA} sft reward ppo online evaluation",
            "* base/model sft/model sft/model reward/model",
            "base/model",
        ),
        (
            ["base=hf://o/n", "from=reward", *NO_TEXT],
            "base/model tokenizer reward ppo online evaluation",
            "* * base/model base/model reward/model",
            "base/model",
        ),
        (
            ["base=/m", "from=ppo", "ppo.reward_model=/r", *NO_TEXT],
            "base/model base/reward_model tokenizer ppo evaluation",
            "* * * base/model base/reward_model",
            "base/model",
        ),
        (
            ["ppo.policy=/p", "from=ppo", "ppo.reward_model=/r", *NO_TEXT],
            "base/policy base/reward_model tokenizer ppo evaluation",
            "* * * base/policy base/reward_model",
            "base/policy",
        ),
        (
            ["base=/m", "from=evaluation", *NO_TEXT],
            "base/model tokenizer evaluation",
            "* * * base/model -",
            "base/model",
        ),
        (
            ["from=sft", "sft.model=/s", *NO_TEXT],
            "base/sft tokenizer sft reward ppo online evaluation",
            "* base/sft sft/model sft/model reward/model",
            "base/sft",
        ),
        (
            ["reward.model=/r"],  # beside a model that is grown here, with its tokenizer
            f"base/reward {' '.join(STAGES)}",
            "- pretrain/model base/reward sft/model reward/model",
            None,
        ),
        (
            ["base=/m", "from=sft", "ppo.reward_model=/r", *NO_TEXT],
            "base/model base/reward_model tokenizer sft ppo evaluation",
            "* base/model * sft/model base/reward_model",
            "base/model",
        ),
    ],
)
def test_stages_and_what_they_begin_with(words: list[str], stages: str, folders: str, tokenizer: str | None) -> None:
    """folders: of each role's first weights; -: there are none, *: no stage on the road has that role."""
    config = _config(*words)
    check_start(config)
    assert stages_on(config) == tuple(stages.split())
    assert brings_tokenizer(config) == tokenizer
    for role, folder in zip(ROLES, folders.split(), strict=True):
        first = initial(config, role)
        assert folder == "*" or (first.folder if first else "-") == folder
        assert first is None or first.folder.startswith(first.stage)
    assert set(brought(config)) == {stage for stage in stages_on(config) if stage.startswith("base/")}


def test_a_model_is_brought_for_the_roles_that_begin_with_it() -> None:
    (model,) = brought(_config("base=/m", "from=reward", *NO_TEXT)).values()
    assert model == ("base", "/m", ("reward", "policy"))
    models = brought(_config("base=/m", "sft.model=/s", "from=sft", "ppo.policy=/p", *NO_TEXT))
    assert {stage: m[:2] for stage, m in models.items()} == {
        "base/sft": ("sft.model", "/s"),
        "base/policy": ("ppo.policy", "/p"),
    }
    assert begins_with(_config("base=/m", "from=evaluation"), "policy", "sft") == ("base/model",)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["from=sft"], "from=sft has no model to begin with for 'sft'; set base"),
        (["from=evaluation"], "for 'policy'; set base (ppo.policy"),
        (["base=/m", "from=ppo"], "for 'reward_model'; set ppo.reward_model to"),
        (["from=reward", "reward.model=/r"], "for 'policy'; set base"),
    ],
)
def test_a_start_without_a_model_is_refused(words: list[str], line: str) -> None:
    with pytest.raises(UserError) as refused:
        check_start(_config(*words))
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_the_pretraining_mix_is_off_without_tokens() -> None:
    config = _config("base=/m", "from=sft", *NO_TEXT)
    assert steps_off(config) == dict.fromkeys(("sft.pretrain_share", "ppo.pretrain_coefficient"), NO_PRETRAINING)
    effect = in_effect(config)
    assert effect.sft.pretrain_share == effect.ppo.pretrain_coefficient == 0.0 != config.sft.pretrain_share
    with_text = _config("base=/m", "from=sft")
    assert in_effect(with_text) == with_text and not steps_off(with_text)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="start"):
        _config("from=tokenizer")
    phases = [{**_config().pretrain.phases[0].model_dump(), "rope_base": None}]
    with pytest.raises(UserError, match="phase short_context: rope_base is needed"):
        _config(f"pretrain.phases={phases}".replace("None", "null"))
    assert _config("base=/m", f"pretrain.phases={phases}".replace("None", "null")).pretrain.phases[0].rope_base is None
    with pytest.raises(UserError, match="for 'reward_model'"):
        initial_folder(_config("base=/m", "from=evaluation"), "reward_model", Path())
