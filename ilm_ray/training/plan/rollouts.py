"""A rough forecast of PPO's hours: operations and bytes of an iteration, over the rates of the device.

Answers are taken to be as long as they may be. Weights that travel, checkpoints and validation are not counted.
"""

from dataclasses import dataclass

from ilm_ray.config import Config
from ilm_ray.config.fit import fitted, group_sizes, groups_of
from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.step import flops_per_token, pieces

# Share of the memory's rate that decoding reaches, and seconds of a decoding step that no byte explains: our estimates.
DECODING_RATE, DECODING_SECONDS = 0.5, 0.004


@dataclass(frozen=True)
class Iteration:
    """Seconds of an iteration of PPO. generate: answers; score: reference, reward, old values; learn: both learners."""

    generate: float
    score: float
    learn: float

    @property
    def total(self) -> float:
        return self.generate + self.score + self.learn


def ppo_iteration(config: Config, shape: Shape, device: Device, gpus: int) -> Iteration:
    """An iteration on `gpus` GPUs; groups that share GPUs work one after the other, others side by side."""
    ppo = fitted(config, gpus).ppo
    ranks = {name: min(size, gpus) for name, size in zip(groups_of(ppo), group_sizes(ppo), strict=True)}
    length = ppo.max_prompt_tokens + ppo.max_new_tokens
    tokens = ppo.answers * length
    # A third of a training's operations is its forward; recomputation is one more.
    attained = device.peak(ppo.precision) * device.attainable
    forward = tokens * flops_per_token(shape, length, causal=True) / 3 / attained
    mixed = 1 + (ppo.pretrain_share if ppo.pretrain_coefficient else 0.0)
    scorers = ("reference_ranks", "reward_ranks", "critic_ranks")
    scores = [forward / ranks[name] for name in scorers if name in ranks]
    work = {"policy_ranks": mixed, "critic_ranks": 1.0}
    learners = [4 * ppo.ppo_epochs * share * forward / ranks[name] for name, share in work.items() if name in ranks]
    apart = not ppo.colocate and gpus >= sum(group_sizes(ppo))
    meet = max if apart else sum
    return Iteration(_decoding(config, shape, device, ranks["rollout_engines"]), meet(scores), meet(learners))


def ppo_seconds(config: Config, shape: Shape, device: Device, gpus: int) -> float:
    """All iterations, the critic's warm-up included."""
    ppo = config.ppo
    return (ppo.iterations + ppo.warmup) * ppo_iteration(config, shape, device, gpus).total


def _decoding(config: Config, shape: Shape, device: Device, engines: int) -> float:
    """Seconds of all answers: a step reads an engine's weights once, and the keys of its sequences, half grown."""
    ppo, width = config.ppo, 2 if config.ppo.precision == "bf16" else 4
    weights = width * pieces(shape, Layout().on(1), 0).all
    sequences = -(-ppo.answers // engines)
    keys = width * 2 * shape.layers * shape.kv_heads * shape.head_dim
    cache = sequences * keys * (ppo.max_prompt_tokens + ppo.max_new_tokens / 2)
    step = (weights + cache) / (DECODING_RATE * device.memory_rate) + DECODING_SECONDS
    return ppo.max_new_tokens * step
