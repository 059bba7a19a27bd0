"""The stages of a run and the model that each training begins with, from the settings alone.

A run without `base` builds its tokenizer and draws its first weights. With `base` (and with models for single roles)
`start`, on the command line `from=sft`, names the stage that trains first; stages before it are left out. Data stages
run where their input is named.
"""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ilm_ray.base.errors import UserError
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.schema import Config, Start

STAGES = (
    "text",
    "code",
    "decontamination",
    "tokenizer",
    "tokens",
    "long_text",
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "online",
    "evaluation",
)
DATA = ("text", "code", "decontamination", "tokens", "long_text")
STARTS: tuple[Start, ...] = get_args(Start)
Role = Literal["pretrain", "sft", "reward", "policy", "reward_model"]
BASE = "base/model"


class Initial(NamedTuple):
    """The stage that a role's first weights come from, and their folder within the run."""

    stage: str
    folder: str


class Brought(NamedTuple):
    """A model from outside: the setting that names it, its folder or `hf://owner/name`, and its roles in this run."""

    setting: str
    place: str
    roles: tuple[Role, ...]


def initial(config: Config, role: Role) -> Initial | None:
    """The model that gives a role its first weights; None: they are drawn (pre-training), or no setting names it."""
    if _named(config).get(role) is not None:
        return Initial(f"base/{role}", f"base/{role}")
    before: dict[Role, Start] = {"sft": "pretrain", "reward": "sft", "policy": "sft", "reward_model": "reward"}
    if role == "reward_model" and not config.ppo.has_reward_model:
        return None
    if (trained := before.get(role)) in _trained(config):
        return Initial(str(trained), f"{trained}/model")
    if role == "reward_model" or config.base is None:
        return None
    return Initial(BASE, BASE)


def initial_folder(config: Config, role: Role, run_dir: Path) -> Path:
    """The folder of a role's first weights. Raises UserError where no setting and no stage gives them."""
    if (first := initial(config, role)) is None:
        raise _missing(config, role)
    return run_dir / first.folder


def brought(config: Config) -> dict[str, Brought]:
    """Stage -> the model that it brings from outside; the stage's folder holds the weights."""
    roles = dict[str, tuple[Role, ...]]()
    for role in _roles(config):
        if (first := initial(config, role)) is not None and first.stage.startswith("base/"):
            roles[first.stage] = (*roles.get(first.stage, ()), role)
    settings = {BASE: ("base", config.base)} | {
        f"base/{role}": (_SETTINGS[role], place) for role, place in _named(config).items()
    }
    found = {stage: (*settings[stage], of) for stage, of in roles.items()}
    return {stage: Brought(setting, place, of) for stage, (setting, place, of) in found.items() if place is not None}


def stages_on(config: Config) -> tuple[str, ...]:
    """Stages of the run in their order, those that bring models first."""
    trained, off = _trained(config), set[str]()
    off |= set(STARTS[:-1]) - set(trained)
    if "pretrain" in off:
        off |= {"long_text"} if config.input or config.text.sources else set(DATA)
    if off & {"reward", "ppo"}:
        off |= {"online"}  # its rounds train the run's own reward model further
    return (*brought(config), *(stage for stage in STAGES if stage not in off))


def brings_tokenizer(config: Config) -> str | None:
    """The stage whose model gives the run its tokenizer; None: the run builds one."""
    if config.base is not None:
        return BASE
    return None if "pretrain" in _trained(config) else next(iter(brought(config)), None)


def begins_with(config: Config, *roles: Role) -> tuple[str, ...]:
    """The stages that these roles' first weights come from, each once."""
    return tuple(dict.fromkeys(first.stage for role in roles if (first := initial(config, role)) is not None))


def among(config: Config, *stages: str) -> tuple[str, ...]:
    """Those of `stages` that are on the road."""
    on = stages_on(config)
    return tuple(stage for stage in stages if stage in on)


def check_start(config: Config) -> None:
    """Raise UserError where a stage on the road has no model to begin with."""
    for role in _roles(config):
        if role != "pretrain" and initial(config, role) is None:
            raise _missing(config, role)


def in_effect(config: Config) -> Config:
    """The settings without the pre-training mix of SFT and PPO, where the run has no pre-training data."""
    if "tokens" in stages_on(config):
        return config
    sft = config.sft.model_copy(update={"pretrain_share": 0.0})
    ppo = config.ppo.model_copy(update={"pretrain_coefficient": 0.0})
    return config.model_copy(update={"sft": sft, "ppo": ppo})


_SETTINGS: dict[Role, str] = {
    "pretrain": "base",
    "sft": "sft.model",
    "reward": "reward.model",
    "policy": "ppo.policy",
    "reward_model": "ppo.reward_model",
}


def _missing(config: Config, role: Role) -> UserError:
    setting = _SETTINGS[role]
    way = setting if role == "reward_model" else f"base ({setting} for this role alone)"
    return UserError(
        f"from={config.start} has no model to begin with for '{role}'; set {way} to a model's folder or to "
        "hf://owner/name"
    )


def _named(config: Config) -> dict[Role, str | None]:
    """The settings that name a model for one role."""
    ppo = config.ppo
    return {
        "sft": config.sft.model,
        "reward": config.reward.model,
        "policy": ppo.policy,
        "reward_model": ppo.reward_model,
    }


def _trained(config: Config) -> tuple[Start, ...]:
    """Stages of STARTS that run and train a model."""
    begun = STARTS.index(config.start or "pretrain")
    return tuple(
        stage
        for stage in STARTS[begun:]
        if stage != "evaluation" and (stage != "reward" or _trains_reward_model(config.ppo))
    )


def _trains_reward_model(ppo: PPOConfig) -> bool:
    return ppo.has_reward_model and ppo.reward_model is None


def _roles(config: Config) -> tuple[Role, ...]:
    """Roles that the stages on the road fill."""
    trained = _trained(config)
    alone = () if "ppo" in trained or config.ppo.reward_model is None else ("reward_model",)
    of: dict[Start, tuple[Role, ...]] = {"pretrain": ("pretrain",), "sft": ("sft",), "reward": ("reward",)}
    judged: tuple[Role, ...] = ("reward_model",) if config.ppo.has_reward_model else ()
    scored: tuple[Role, ...] = ("policy", *judged) if "ppo" in trained else ("policy", *alone)
    return (*(role for stage in trained for role in of.get(stage, ())), *scored)
