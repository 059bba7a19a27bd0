"""Settings that name data have no default: some are needed, and without the others a step is off."""

import re
from collections.abc import Collection

from ilm_ray.base.errors import UserError
from ilm_ray.config.road import stages_on
from ilm_ray.config.schema import Config

NO_PRETRAINING = "no pre-training data"
_LANGUAGE = re.compile("[a-z]{2,3}(-[A-Za-z]+)?|unknown")  # a code of pycld2
CODE = "code"  # the source of a mixture that the stage of the same name gives

# Setting -> a file or glob to give, and the stages that read it.
_NEEDED = {
    "input": ("a glob of web archives", ("text",)),
    "sft.data": ("a file of conversations", ("sft",)),
    "reward.data": ("a file of preference pairs", ("reward", "online")),
    "ppo.prompts": ("a file of prompts", ("ppo", "online", "evaluation")),
}


def check_named(config: Config, stages: Collection[str]) -> None:
    """Raise UserError that lists every setting which these stages need and which is not set."""
    if missing := needed(config, stages):
        listed = ", ".join(f"{setting} ({give})" for setting, give in missing.items())
        raise UserError(
            f"this job needs data that no setting names: {listed}; set each as key=value or in a file with --config"
        )


def needed(config: Config, stages: Collection[str]) -> dict[str, str]:
    """Setting -> what to give, of those which these stages need and which are not set."""
    given = {
        "input": config.input or config.text.sources,
        "sft.data": config.sft.data,
        "reward.data": config.reward.data,
        "ppo.prompts": config.ppo.prompts,
    }
    missing = {
        setting: give
        for setting, (give, readers) in _NEEDED.items()
        if not given[setting] and not set(readers).isdisjoint(stages)
    }
    if "pretrain" in stages_on(config):
        for phase in config.pretrain.phases:
            for name in phase.mixture:
                if name == CODE and CODE in stages and not config.code.source:
                    missing.setdefault(
                        "code.source", f"repositories, for the mixture of phase {phase.name} has '{CODE}'"
                    )
                elif not _is_given(config, name) and {"text", "pretrain"} <= {*stages}:
                    why = f"documents for the '{name}' in the mixture of phase {phase.name}"
                    missing.setdefault(f"text.sources.{name}.input", f"{why}, or pretrain.without=[{phase.name}]")
    return missing


def _is_given(config: Config, source: str) -> bool:
    """Whether a mixture's source is code, a name in `text.sources`, or a language that the text may be in."""
    languages = config.text.languages
    language = _LANGUAGE.fullmatch(source) is not None if languages is None else source in languages
    return language or source == CODE or source in config.text.sources


def not_set(setting: str) -> UserError:
    """The error for a `setting` that is read and not set."""
    return UserError(f"{setting} is not set; give {_NEEDED[setting][0]}")


def steps_off(config: Config) -> dict[str, str]:
    """Setting -> why the step that reads it is off, of those whose steps a run can do without."""
    text = config.text
    off = {f"text.{name}": "no list named" for name in ("blocked_domains", "blocked_words") if not getattr(text, name)}
    off |= {f"text.classifiers.{name}": "no model named" for name, model in text.classifiers if not model.named}
    if not config.decontamination.benchmarks:
        off["decontamination.benchmarks"] = "no benchmark named"
    if not config.code.source:
        off["code.source"] = "no source named"
    on = stages_on(config)
    mixes = {"sft": "sft.pretrain_share", "ppo": "ppo.pretrain_coefficient"}
    without = {setting: NO_PRETRAINING for stage, setting in mixes.items() if stage in on and "tokens" not in on}
    return {setting: why for setting, why in off.items() if setting.partition(".")[0] in on} | without


def stage_off(config: Config, stage: str) -> dict[str, str]:
    """Those of `steps_off` that are settings of one stage: part of its manifest."""
    return {setting: why for setting, why in steps_off(config).items() if setting.startswith(f"{stage}.")}


def off_line(off: dict[str, str]) -> str:
    """For people: `off: no list named (text.blocked_words); no model named (text.classifiers.toxicity)`."""
    settings_of: dict[str, list[str]] = {}
    for setting, why in off.items():
        settings_of.setdefault(why, []).append(setting)
    return "off: " + "; ".join(f"{why} ({', '.join(settings)})" for why, settings in settings_of.items())
