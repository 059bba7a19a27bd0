"""Predicts the memory of PPO's ranks, in bytes, and finds settings that fit a device.

Learners: DeepSpeed's ZeRO with mixed precision (arXiv 1910.02054, section 3.1), blocks recomputed. Frozen models:
weights and one forward. Engines: weights, a stated cache, and vLLM's buffers. Sizes of DeepSpeed's buckets are its
defaults (deepspeed/runtime/zero/config.py).
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.config.fit import (
    SCORERS,
    check_ppo_fits,
    fitted,
    gpus_of_groups,
    groups_of,
    longest_sequence,
    scorer_misfit,
)
from ilm_ray.config.layout import Layout
from ilm_ray.config.section import Precision
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import GIB, USABLE_MEMORY
from ilm_ray.training.plan.memory import activations
from ilm_ray.training.plan.shape import planned_shape
from ilm_ray.training.plan.step import OptimizerStep, block_matrices, block_vectors

BUCKET = 500_000_000  # numbers in DeepSpeed's reduce bucket
LIVE = 1_000_000_000  # parameters that ZeRO-3 keeps gathered
SUB_GROUP = 1_000_000_000  # parameters that ZeRO-3 updates at once
LOGIT_BYTES = 12  # of a logit whose gradient is computed: log-probability and two gradients, in fp32
PREFILL = 16_384  # tokens that vLLM 0.32 sends forward at once on a large card (engine/arg_utils.py)
SAMPLED = 1024  # sequences that it samples for at once there
# CUDA graphs and kernels' workspaces of an engine; CUDA's context of a further process on a device. Our figures.
ENGINE_BUFFERS, CONTEXT = 2 * GIB, GIB // 2
FEWEST_SEQUENCES = 8  # of the longest kind that an engine's cache must hold

ENGINES, LEARNERS = "rollout_engines", ("policy", "critic")


@dataclass(frozen=True)
class RankMemory:
    """Bytes of a rank at its peak. `resident` is there always, the rest while it works; sleep frees an engine's."""

    resident: int
    gradients: int = 0  # of a learner
    activations: int = 0  # kept for a backward
    transient: int = 0  # beside them: of the loss, of a block, or of the optimizer's step
    cache: int = 0  # keys and values of an engine

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Work:
    """Sizes of PPO's work: the model, and the tokens of a micro-batch."""

    shape: Shape
    rows: int  # most tokens of a micro-batch
    loss_chunk: int  # tokens whose logits exist at once
    precision: Precision

    @property
    def width(self) -> int:
        """Bytes of a number in forward and backward."""
        return 2 if self.precision == "bf16" else 4

    @property
    def block(self) -> int:
        """Parameters of a block."""
        return block_matrices(self.shape) + block_vectors(self.shape)

    def parameters(self, vocabulary_head: bool) -> int:
        """Parameters of a language model, or of one with a scalar head."""
        s = self.shape
        head = s.vocab_size * s.hidden * (not s.tied) if vocabulary_head else s.hidden
        return s.layers * self.block + s.vocab_size * s.hidden + s.hidden + head


def kept_activations(work: Work) -> int:
    """Bytes that a learner keeps between forward and backward of a micro-batch, blocks recomputed."""
    step = OptimizerStep(work.rows, 1, precision=work.precision, loss_chunk=work.loss_chunk)
    kept = activations(work.shape, Layout(recompute="full").on(1), step)
    return work.shape.layers * kept.block + kept.head + kept.tables


def learner_memory(work: Work, ranks: int, stage: int, vocabulary_head: bool) -> RankMemory:
    """A rank of policy (`vocabulary_head`) or critic under ZeRO `stage` on `ranks` ranks, at its peak."""
    count, width = work.parameters(vocabulary_head), work.width
    share = -(-count // ranks) if stage else count
    master = 4 if stage or width == 2 else 0  # without ZeRO, fp32 weights are their own master
    weights = width * (share if stage == 3 else count)
    resident = weights + (master + 8) * share
    gradients = width * (count if stage < 2 else share)
    buffers = width * ((BUCKET if stage else 0) + (min(count, LIVE) if stage == 3 else 0))
    loss = _of_loss(work) if vocabulary_head else 0
    updated = min(share, SUB_GROUP) if stage == 3 else share
    moments = [
        RankMemory(resident, gradients, kept_activations(work), max(loss, _of_block(work)) + buffers),
        # The optimizer's step: gradients once more, flattened, and in fp32.
        RankMemory(resident, gradients, transient=(width + 4) * updated if master else 0),
    ]
    return max(moments, key=lambda memory: memory.total)


def _of_loss(work: Work) -> int:
    """A chunk's logits and their gradients, and the gradient of the head: of the chunk, and their sum so far."""
    head = work.shape.vocab_size * work.shape.hidden
    return LOGIT_BYTES * min(work.loss_chunk, work.rows) * work.shape.vocab_size + 2 * work.width * head


def _of_block(work: Work) -> int:
    """The backward of a block: its recomputed activations, gradients of two inner and two outer tensors and of
    weights."""
    step = OptimizerStep(work.rows, 1, precision=work.precision)
    again = activations(work.shape, Layout(recompute="full").on(1), step).again
    inner = work.rows * 2 * (work.shape.mlp_hidden + work.shape.hidden)
    return again + work.width * (inner + work.block)


def frozen_memory(work: Work, vocabulary_head: bool, gpus: int) -> RankMemory:
    """A rank of reference (`vocabulary_head`) or reward: its part of a copy that is split over `gpus`, one forward."""
    s = work.shape
    logits = LOGIT_BYTES * min(work.loss_chunk, work.rows) * s.vocab_size // gpus if vocabulary_head else 0
    forward = work.rows * work.width * (2 * s.hidden + 3 * s.mlp_hidden // gpus)
    whole = s.hidden * (2 * s.layers + (1 if vocabulary_head else 2))  # norms, and a scalar head, are on every rank
    parameters = whole + (work.parameters(vocabulary_head) - whole) // gpus
    return RankMemory(work.width * parameters, transient=max(logits, forward))


def engine_memory(work: Work, ppo: PPOConfig, cache: int) -> RankMemory:
    """One GPU of an engine that spans `ppo.engine_gpus`, with `cache` bytes of keys and values there."""
    work, gpus, s = replace(work, precision=ppo.sampled_in), ppo.engine_gpus, work.shape
    twice = work.shape.tied * work.shape.vocab_size * work.shape.hidden  # an engine holds a tied matrix twice
    weights = -(-work.width * (work.parameters(True) + twice) // gpus)
    forward = PREFILL * work.width * (2 * s.hidden + 3 * s.mlp_hidden // gpus)
    logits = LOGIT_BYTES * SAMPLED * s.vocab_size
    return RankMemory(weights, transient=max(forward, logits) + ENGINE_BUFFERS, cache=cache)


def cache_bytes(work: Work, ppo: PPOConfig, sequences: int) -> int:
    """Keys and values of `sequences` of the longest rollouts, on one GPU of an engine."""
    s, tokens = work.shape, ppo.max_prompt_tokens + ppo.max_new_tokens
    width = replace(work, precision=ppo.sampled_in).width
    return sequences * tokens * 2 * s.layers * s.kv_heads * s.head_dim * width // ppo.engine_gpus


@dataclass(frozen=True)
class EngineRoom:
    """An engine on a device, in bytes: where others share it, its cache takes the rest."""

    engine: int  # without its cache
    others: int  # at most, while the engine is awake
    fewest: int  # smallest cache that is accepted
    wanted: int  # largest that is of use

    def cache(self, device_memory: int) -> int:
        """Bytes of keys and values on a device of this size."""
        return max(self.fewest, min(self.wanted, usable(device_memory) - self.engine - self.others))


@dataclass(frozen=True)
class PPOMemory:
    """Memory of PPO's ranks by group (names of `config.fit.groups_of`), and of the device that needs most.

    peak: bytes of that device; least: of it with the smallest cache that is accepted; room: of an engine on the fullest
    of the devices that have one.
    """

    ranks: Mapping[str, RankMemory]
    peak: int
    least: int
    room: EngineRoom

    def fits(self, device_memory: int) -> bool:
        """Whether tensors leave room for CUDA's context, NCCL's buffers and fragments."""
        return self.least <= usable(device_memory)


def usable(device_memory: int) -> int:
    """Bytes of a device that tensors may take."""
    return int(device_memory * USABLE_MEMORY)


def ppo_rank_memory(config: Config, device_memory: int, gpus: int) -> PPOMemory:
    """Memory of PPO on `gpus` GPUs (at least 1) of `device_memory` bytes each: see `memory_of`."""
    return memory_of(work_of(config), config.ppo, device_memory, gpus)


def work_of(config: Config) -> Work:
    """Sizes of PPO's work by the settings."""
    training, shape = config.training, planned_shape(config)
    return Work(shape, training.micro_tokens, training.loss_chunk, config.ppo.precision)


def memory_of(work: Work, ppo: PPOConfig, device_memory: int, gpus: int) -> PPOMemory:
    """Memory of all ranks, and of the fullest device.

    Apart, every rank has a device of its own. Ranks that share one (`colocate`, or fewer GPUs than ranks) are all
    resident there; the engine sleeps while the learners train, unless `staleness` lets it sample meanwhile.
    """
    ranks, room = _ranks(work, ppo), engine_room(work, ppo, gpus)
    devices = [_device(work, ppo, ranks, names) for names in together(ppo, gpus)]
    peak, least = (
        max(max(d.training, d.room.engine + d.room.others + cache(d.room)) for d in devices)
        for cache in (lambda room: room.cache(device_memory), lambda room: room.fewest)
    )
    engine = engine_memory(work, ppo, room.cache(device_memory))
    return PPOMemory({**ranks, ENGINES: engine}, peak, least, room)


def engine_room(work: Work, ppo: PPOConfig, gpus: int) -> EngineRoom:
    """The engine on the fullest of the devices that may have one."""
    ranks = _ranks(work, ppo)
    devices = [_device(work, ppo, ranks, names) for names in together(ppo, gpus) if ENGINES in names]
    return max((device.room for device in devices), key=lambda room: room.others)


def _ranks(work: Work, ppo: PPOConfig) -> dict[str, RankMemory]:
    ranks = {
        "policy_ranks": learner_memory(work, ppo.policy_ranks, ppo.policy_zero_stage, True),
        "critic_ranks": learner_memory(work, ppo.critic_ranks, ppo.critic_zero_stage, False),
        "reference_ranks": frozen_memory(work, True, ppo.scorer_gpus),
        "reward_ranks": frozen_memory(work, False, ppo.scorer_gpus),
        ENGINES: engine_memory(work, ppo, 0),
    }
    return {name: ranks[name] for name in groups_of(ppo)}


class Device(NamedTuple):
    """A device while its learners train, in bytes, and the rest of the time: `room` is all zero without an engine."""

    training: int
    room: EngineRoom


def _device(work: Work, ppo: PPOConfig, ranks: Mapping[str, RankMemory], names: Collection[str]) -> Device:
    others = [ranks[name] for name in names if name != ENGINES]
    contexts = CONTEXT * (len(names) - 1)
    training = contexts + sum(rank.total if rank.gradients else rank.resident for rank in others)
    scoring = contexts + sum(rank.resident + (0 if rank.gradients else rank.transient) for rank in others)
    if ENGINES not in names:
        return Device(max(training, scoring), EngineRoom(0, 0, 0, 0))
    at_once = -(-ppo.answers // ppo.rollout_engines)
    fewest, wanted = (cache_bytes(work, ppo, n) for n in (min(FEWEST_SEQUENCES, at_once), at_once))
    engine = ranks[ENGINES].total
    if ppo.staleness:  # it samples for the next iteration while the learners train
        return Device(0, EngineRoom(engine, max(training, scoring), fewest, wanted))
    # Asleep, an engine leaves its graphs.
    return Device(training + ENGINE_BUFFERS if others else 0, EngineRoom(engine, scoring, fewest, wanted))


def together(ppo: PPOConfig, gpus: int) -> list[tuple[str, ...]]:
    """Groups with ranks on one device: each choice that Ray has."""
    if ppo.colocate:
        return [groups_of(ppo)]
    on_each = -(-sum(gpus_of_groups(ppo)) // gpus)
    names = groups_of(ppo)
    return list(itertools.combinations(names, min(on_each, len(names))))


def ppo_misfit(config: Config, device_memory: int, gpus: int) -> str | None:
    """The reason why PPO does not fit on `gpus` GPUs (at least 1) of `device_memory` bytes each, or None."""
    memory = ppo_rank_memory(config, device_memory, gpus)
    if memory.fits(device_memory):
        return None
    return (
        f"PPO does not fit: a GPU needs {memory.least / GIB:.1f} GiB and has {usable(device_memory) / GIB:.1f} GiB for "
        "tensors"
    )


def ppo_changes(config: Config, device_memory: int, gpus: int) -> Iterator[tuple[str, ...]]:
    """Settings ("key=value") with which PPO fits, the smallest change first; counts are those of `fitted`."""
    ppo, tokens = config.ppo, config.training.micro_tokens
    least = longest_sequence(ppo)
    none = dict[str, Any]()
    fewer = [{"training.micro_tokens": tokens >> n} for n in range(1, 12) if tokens >> n >= least]
    learners = [name for name in LEARNERS if name != "critic" or ppo.has_critic]
    shards = {f"ppo.{name}_zero_stage": 3 for name in learners if getattr(ppo, f"{name}_zero_stage") < 3}
    scorers = [_split_scorers(ppo, n) for n in (2, 4, 8) if n > ppo.scorer_gpus]
    engines = [{"ppo.engine_gpus": n} for n in (2, 4, 8) if n > ppo.engine_gpus]
    spans = [*scorers, *engines, *(a | b for a in scorers for b in engines)]
    more = [{f"ppo.{name}_ranks": getattr(ppo, f"{name}_ranks") * n for name in learners} for n in (2, 4, 8)]
    apart = [{"ppo.colocate": False}] if ppo.colocate else []
    for ways in itertools.product([none, *apart], [none, *more], [none, *spans], [none, shards], [none, *fewer]):
        settings = {key: value for way in ways for key, value in way.items()}
        if settings and _fits_with(config, settings, device_memory, gpus):
            yield tuple(f"{key}={str(value).lower()}" for key, value in settings.items())


def _split_scorers(ppo: PPOConfig, gpus: int) -> dict[str, Any]:
    """Reference and reward model over `gpus` each, with as many more ranks as whole copies need."""
    ranks = {name: -(-getattr(ppo, name) // gpus) * gpus for name in SCORERS}
    more = {f"ppo.{name}": count for name, count in ranks.items() if count != getattr(ppo, name)}
    return {"ppo.scorer_gpus": gpus, **more}


def _fits_with(config: Config, settings: dict[str, Any], device_memory: int, gpus: int) -> bool:
    """Whether the changed settings are accepted, and PPO then fits."""
    values = config.model_dump()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    try:
        changed = fitted(Config.model_validate(values), gpus)
        check_ppo_fits(changed.ppo, gpus)
    except (UserError, ValidationError):
        return False
    if scorer_misfit(changed.ppo, changed.model, changed.tokenizer.vocab_size) is not None:
        return False
    return ppo_misfit(changed, device_memory, gpus) is None
