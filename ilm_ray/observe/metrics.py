"""Live metrics of a run: Ray's own counters and gauges, which every node exports to Prometheus as `ray_ilm_*`.

Set them inside actors and tasks. Ray pushes the values of a process every few seconds (10 by default), so a gauge that
a driver sets once just before it ends is never exported. A counter gains the suffix `_total` on the way out.
"""

from collections.abc import Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Metric

PREFIX = "ilm_"

# The metrics of the pipeline: pass one as `counter(*DOCUMENTS)` or `gauge(*TRAIN_LOSS)`.
DOCUMENTS = ("ilm_documents", "documents that a stage kept or removed", ("stage", "outcome"))
TRAIN_LOSS = ("ilm_train_loss", "mean training loss of the last logged steps", ("stage",))
TOKENS_PER_SECOND = ("ilm_tokens_per_second", "training tokens per second over all workers", ("stage",))
LEARNING_RATE = ("ilm_learning_rate", "learning rate of the last step", ("stage",))
GRADIENT_NORM = ("ilm_gradient_norm", "norm of the last step's gradient before clipping", ("stage",))
MFU = ("ilm_mfu", "share of the devices' peak FLOP/s, the attention of all keys counted", ("stage",))
DATA_WAIT = ("ilm_data_wait_share", "share of training time spent waiting for data", ("stage",))
CHECKPOINT_WAIT = ("ilm_checkpoint_wait_share", "share of training time spent waiting for checkpoints", ("stage",))
REWARD_MEAN = ("ilm_reward_mean", "mean reward score of the last PPO iteration", ())
KL = ("ilm_kl", "mean KL(policy || reference) of the last PPO iteration, in nats a sequence", ())
RESPONSE_TOKENS = ("ilm_response_tokens", "mean response length of the last PPO iteration, in tokens", ())

# What of a row of `metrics.jsonl` of training is exported, and as what.
OF_TRAINING_ROWS = (
    (TRAIN_LOSS, "loss"),
    (LEARNING_RATE, "lr"),
    (TOKENS_PER_SECOND, "tokens_per_second"),
    (GRADIENT_NORM, "grad_norm"),
    (MFU, "mfu"),
    (DATA_WAIT, "data_share"),
    (CHECKPOINT_WAIT, "checkpoint_share"),
)

# One object a name in each process: Ray would register a second one of the same name again on every call.
_known: dict[str, Metric] = {}


def counter(name: str, description: str = "", tag_keys: Sequence[str] = ()) -> Counter:
    """The process's counter of this name; `.inc(value, tags={...})`. Raises ValueError for a name that is not ours."""
    return _cached(Counter, name, description, tuple(tag_keys))


def gauge(name: str, description: str = "", tag_keys: Sequence[str] = ()) -> Gauge:
    """The process's gauge of this name; `.set(value, tags={...})`. Raises ValueError for a name that is not ours."""
    return _cached(Gauge, name, description, tuple(tag_keys))


def _cached(kind: type[Metric], name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
    if not name.startswith(PREFIX):
        raise ValueError(f"metric '{name}' must start with '{PREFIX}'")
    if name not in _known:
        _known[name] = kind(name, description=description, tag_keys=tag_keys)
    found = _known[name]
    if not isinstance(found, kind) or tuple(found.info["tag_keys"]) != tag_keys:
        raise ValueError(f"metric '{name}' exists already as {type(found).__name__} with tags {found.info['tag_keys']}")
    return found
