"""A rough forecast of PPO's hours: operations and bytes of an iteration, over the rates of the device.

Answers are taken to be as long as they may be. Weights that travel, checkpoints and validation are not counted.
"""

from dataclasses import dataclass

from ilm_ray.config import Config
from ilm_ray.config.fit import fitted, group_sizes
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
    policy, critic, reference, reward, engines = (min(size, gpus) for size in group_sizes(ppo))
    length = ppo.max_prompt_tokens + ppo.max_new_tokens
    tokens = ppo.prompts_per_iteration * length
    # A third of a training's operations is its forward; recomputation is one more.
    attained = device.peak(ppo.precision) * device.attainable
    forward = tokens * flops_per_token(shape, length, causal=True) / 3 / attained
    mixed = 1 + (ppo.pretrain_share if ppo.pretrain_coefficient else 0.0)
    scores = (forward / reference, forward / reward, forward / critic)
    learners = (4 * ppo.ppo_epochs * mixed * forward / policy, 4 * ppo.ppo_epochs * forward / critic)
    apart = not ppo.colocate and gpus >= sum(group_sizes(ppo))
    meet = max if apart else sum
    return Iteration(_decoding(config, shape, device, engines), meet(scores), meet(learners))


def ppo_seconds(config: Config, shape: Shape, device: Device, gpus: int) -> float:
    """All iterations, the critic's warm-up included."""
    ppo = config.ppo
    return (ppo.iterations + ppo.critic_warmup) * ppo_iteration(config, shape, device, gpus).total


def _decoding(config: Config, shape: Shape, device: Device, engines: int) -> float:
    """Seconds of all answers: a step reads an engine's weights once, and the keys of its sequences, half grown."""
    ppo, width = config.ppo, 2 if config.ppo.precision == "bf16" else 4
    weights = width * pieces(shape, Layout().on(1), 0).all
    sequences = -(-ppo.prompts_per_iteration // engines)
    keys = width * 2 * shape.layers * shape.kv_heads * shape.head_dim
    cache = sequences * keys * (ppo.max_prompt_tokens + ppo.max_new_tokens / 2)
    step = (weights + cache) / (DECODING_RATE * device.memory_rate) + DECODING_SECONDS
    return ppo.max_new_tokens * step
