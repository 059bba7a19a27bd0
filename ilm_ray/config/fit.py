"""Checks that a configuration fits the machines at hand, before anything starts."""

from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.config import layout
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.schema import Config

# Mixed precision with AdamW: fp32 master and two moments, bf16 parameters and gradients, 4+4+4+2+2.
TRAINING_BYTES_PER_PARAMETER = 16
GROUPS = ("policy_ranks", "critic_ranks", "reference_ranks", "reward_ranks", "rollout_engines")
SCORERS = ("reference_ranks", "reward_ranks")  # groups whose model may be split over `ppo.scorer_gpus` ranks
WHOLE_ROAD = ("pretrain", "ppo")  # the stages that want most


class GpusNeeded(NamedTuple):
    """GPUs of a cluster, over all nodes. One comes after the other: a cluster for both needs the larger number."""

    pretrain: int
    ppo: int


class Size(layout.Size, Protocol):
    """The numbers that a model's parameters are counted from."""

    @property
    def hidden(self) -> int: ...
    @property
    def queries_per_kv(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


def parameter_count(model: Size, vocab_size: int, tied: bool = False) -> int:
    """Parameters of a dense model without its biases; tied: the head is the embedding."""
    heads = model.kv_heads * model.queries_per_kv
    attention = model.hidden * (heads + 2 * model.kv_heads) * model.head_dim + heads * model.head_dim * model.hidden
    block = attention + 3 * model.hidden * model.mlp_hidden + 2 * model.hidden
    return model.layers * block + (1 if tied else 2) * vocab_size * model.hidden + model.hidden


def fitted(config: Config, gpus: float) -> Config:
    """With `ray.fewer_ranks` the configuration with as many workers and ranks as these GPUs carry, at most those set.

    Without GPUs everything runs on CPUs as it is set. A count for which no smaller number would do is not changed.
    """
    if not config.ray.fewer_ranks or gpus == 0:
        return config
    workers, ppo = config.training.workers, _fewer_ranks(config.ppo, int(gpus))
    least = config.training.min_workers
    for fewer in range(min(workers, int(gpus)), 0, -1):
        try:
            return _with(config, {"workers": fewer, "min_workers": least and min(least, fewer)}, ppo)
        except (UserError, ValidationError):  # it cannot share a step's sequences, or is no multiple of a layout
            continue
    return _with(config, {}, ppo)


def _with(config: Config, training: dict[str, Any], ppo: dict[str, int]) -> Config:
    values = config.model_dump()
    return Config.model_validate(values | {"training": values["training"] | training, "ppo": values["ppo"] | ppo})


def _fewer_ranks(ppo: PPOConfig, gpus: int) -> dict[str, int]:
    """Counts of PPO's groups that fit: in proportion where each rank can have a GPU, else one rank of each learner."""
    if gpus >= _gpus_of_ppo(ppo):
        return {}
    names = groups_of(ppo)
    sizes = dict(zip(names, group_sizes(ppo), strict=True))
    fewer = dict[str, int]()
    for span in dict.fromkeys((ppo.scorer_gpus, 1)):  # models that were split stay so where there is room
        spans = {name: span if name in SCORERS else 1 for name in names}
        shares = {
            n: min(size, gpus) if ppo.colocate else size * gpus // sum(sizes.values()) for n, size in sizes.items()
        }
        fewer = {name: max(1, share // spans[name]) * spans[name] for name, share in shares.items()}
        fewer |= {"engine_gpus": 1, "scorer_gpus": span}
        needs = [fewer[name] for name in names]
        if (max(needs) if ppo.colocate else sum(needs)) <= gpus:
            return fewer
    return fewer | {name: 1 for name in names if name in ("policy_ranks", "critic_ranks")}


def fewer_line(config: Config, fit: Config) -> str | None:
    """A line about the changes of `fitted`; None where there are none."""
    changed = [
        f"{section}.{name} {getattr(getattr(fit, section), name)} instead of {getattr(getattr(config, section), name)}"
        for section, names in (("training", ("workers",)), ("ppo", (*GROUPS, "engine_gpus", "scorer_gpus")))
        for name in names
        if getattr(getattr(fit, section), name) != getattr(getattr(config, section), name)
    ]
    return f"fewer GPUs than the preset's counts: {', '.join(changed)}" if changed else None


def groups_of(ppo: PPOConfig) -> tuple[str, ...]:
    """Those of GROUPS that a run has; the engines are last."""
    off = {"critic_ranks": not ppo.has_critic, "reward_ranks": not ppo.has_reward_model}
    return tuple(name for name in GROUPS if not off.get(name))


def group_sizes(ppo: PPOConfig) -> tuple[int, ...]:
    """Ranks of each of PPO's groups that want GPUs, in the order of `groups_of`."""
    return tuple(getattr(ppo, name) for name in groups_of(ppo))


def gpus_of_groups(ppo: PPOConfig) -> tuple[int, ...]:
    """GPUs of each of PPO's groups where every rank has its own; an engine may span several."""
    return *group_sizes(ppo)[:-1], ppo.rollout_engines * ppo.engine_gpus


def gpus_needed(config: Config) -> GpusNeeded:
    """The fewest GPUs that pre-training (and every training on its workers) and PPO run on, where there are any."""
    return GpusNeeded(config.training.workers, _gpus_of_ppo(config.ppo))


def _gpus_of_ppo(ppo: PPOConfig) -> int:
    """NCCL lets no two ranks of one group share a GPU. The learners' ranks form such groups, and so do an engine's GPUs
    and the ranks of a split model."""
    sizes = gpus_of_groups(ppo)
    if ppo.colocate:
        return max(sizes)
    critic = ppo.critic_ranks if ppo.has_critic else 1
    return sum(sizes) if max(ppo.policy_ranks, critic, ppo.engine_gpus, ppo.scorer_gpus) > 1 else 1


def scorer_misfit(ppo: PPOConfig, size: Size, vocab_size: int) -> str | None:
    """The reason why reference and reward model of this size cannot be split over `ppo.scorer_gpus`, or None."""
    for name, value in (("kv_heads", size.kv_heads), ("mlp_hidden", size.mlp_hidden), ("vocab_size", vocab_size)):
        if value % ppo.scorer_gpus:
            return f"ppo.scorer_gpus={ppo.scorer_gpus} must divide the model's {name}={value}"
    return None


def longest_sequence(ppo: PPOConfig) -> int:
    """Tokens of the longest sequence that policy and critic train on; a micro-batch holds at least one."""
    mixes = ppo.pretrain_coefficient > 0 and ppo.pretrain_share > 0
    return max(ppo.max_prompt_tokens + ppo.max_new_tokens, ppo.pretrain_context if mixes else 0)


def check_ppo_fits(ppo: PPOConfig, gpus: float) -> None:
    """Raise UserError where PPO's groups find no place on so many GPUs; with 0 they run on CPUs."""
    if (reason := _ppo_too_large(ppo, gpus)) is not None:
        way = "" if ppo.colocate else ", or share each GPU among the groups with ppo.colocate=true"
        raise UserError(f"{reason}; lower ppo.*_ranks, or set ray.fewer_ranks=true{way}")


def _ppo_too_large(ppo: PPOConfig, gpus: float) -> str | None:
    if gpus == 0 or gpus >= _gpus_of_ppo(ppo):
        return None
    sizes = gpus_of_groups(ppo)
    if ppo.colocate:
        return (
            f"ppo.colocate puts rank k of every group on one GPU: the largest group has {max(sizes)} ranks, the "
            f"cluster {gpus:g} GPU(s)"
        )
    return f"the {sum(sizes)} ranks of PPO have {gpus:g} GPU(s), and NCCL lets no two ranks of one group share a GPU"


def too_small(
    config: Config,
    cpus: float,
    gpus: float,
    memory_gib: float,
    stages: Collection[str] = WHOLE_ROAD,
    parameters: int | None = None,
) -> str | None:
    """The reason why a cluster (memory in GiB, over all nodes) is too small for the configuration, or None.

    stages: names of those that are to run. Counts are taken as they are, `fitted` or not. parameters: of the model;
    None: by the settings.
    """
    if parameters is None:
        parameters = parameter_count(config.model, config.tokenizer.vocab_size)
    need = parameters * TRAINING_BYTES_PER_PARAMETER / 2**30
    if gpus == 0 and need > memory_gib:
        return (
            f"preset '{config.preset}' does not fit: training {parameters / 1e9:.1f}B parameters takes about "
            f"{need:.0f} GiB and this cluster offers {memory_gib:.0f} GiB and no GPU"
        )
    workers = gpus_needed(config).pretrain
    if set(stages) != {"ppo"}:  # which has ranks of its own, and none of these workers
        if gpus and gpus < workers:
            return f"training.workers={workers} but the cluster has {gpus:.0f} GPUs"
        if not gpus and cpus < workers:
            return f"training.workers={workers} but Ray has {cpus:.0f} CPUs"
    if runs_ppo(config, stages):
        if (longest := longest_sequence(config.ppo)) > config.training.micro_tokens:
            return (
                f"training.micro_tokens={config.training.micro_tokens} holds no sequence of PPO: rollouts have up to "
                f"{config.ppo.max_prompt_tokens + config.ppo.max_new_tokens} tokens, those of the pre-training mix "
                f"{config.ppo.pretrain_context} (ppo.pretrain_context), so it must be at least {longest}"
            )
        return scorer_misfit(config.ppo, config.model, config.tokenizer.vocab_size) or _ppo_too_large(config.ppo, gpus)
    return None


def runs_ppo(config: Config, stages: Collection[str]) -> bool:
    """Whether PPO is among `stages`. Round 1 of online RLHF is the stage `ppo`."""
    return "ppo" in stages or ("online" in stages and config.online.rounds > 1)
