"""Live metrics of a run: Ray's own counters and gauges, which every node exports to Prometheus as `ray_ilm_*`.

The table below is the one place where they are named. The dashboards and `docs/metrics.md` are written from it
(`python -m cluster.dashboards`). Set metrics inside actors and tasks: Ray pushes the values of a process every few
seconds (10 by default), so a gauge that a driver sets once just before it ends is never exported.

Ray forgets a gauge that was not set for two such periods. Ours are set again until they end or their process does:
else a training that stalls would look like one that has ended, and an alert could not last longer than a value.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray
from ray.util.metrics import Counter, Gauge

EVERY_S = 10.0  # gauges are set again, disks looked at
Board = Literal["data", "training", "rlhf", "health"]


@dataclass(frozen=True)
class Metric:
    """A metric. unit: of its value, as people write it ("1" where it has none); board: the dashboard that shows it."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    board: Board
    tags: tuple[str, ...]
    description: str

    @property
    def exported(self) -> str:
        """The name under which Prometheus finds it: Ray puts `ray_` before it, and `_total` behind a counter."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


STAGE = ("stage",)

DOCUMENTS = Metric(
    "ilm_documents", "counter", "documents", "data", ("stage", "outcome"), "documents that a step kept or removed"
)
TOKENS = Metric("ilm_tokens", "counter", "tokens", "data", ("source",), "tokens written into shards")

TRAIN_LOSS = Metric(
    "ilm_train_loss", "gauge", "nats/token", "training", STAGE, "mean training loss of the last logged steps"
)
TRAIN_STEP = Metric("ilm_train_step", "gauge", "steps", "training", STAGE, "last logged step; of PPO: iterations done")
TRAIN_STEPS = Metric(
    "ilm_train_steps", "gauge", "steps", "training", STAGE, "steps, or iterations, that the stage has in all"
)
LEARNING_RATE = Metric("ilm_learning_rate", "gauge", "1", "training", STAGE, "learning rate of the last step")
GRADIENT_NORM = Metric(
    "ilm_gradient_norm", "gauge", "1", "training", STAGE, "norm of the last step's gradient before clipping"
)
TOKENS_PER_SECOND = Metric(
    "ilm_tokens_per_second", "gauge", "tokens/s", "training", STAGE, "training tokens over all workers"
)
MFU = Metric("ilm_mfu", "gauge", "share", "training", STAGE, "share of the devices' peak FLOP/s, all keys counted")
GOODPUT = Metric(
    "ilm_goodput",
    "gauge",
    "share",
    "training",
    STAGE,
    "share of the time since the stage's first attempt that went into steps that count: not into starts, steps done "
    "again, evaluation, or waiting for data and checkpoints",
)
DATA_WAIT = Metric(
    "ilm_data_wait_share", "gauge", "share", "training", STAGE, "share of training time spent waiting for data"
)
CHECKPOINT_WAIT = Metric(
    "ilm_checkpoint_wait_share", "gauge", "share", "training", STAGE, "share of training time waiting for checkpoints"
)
CHECKPOINT_SECONDS = Metric(
    "ilm_checkpoint_seconds",
    "gauge",
    "s",
    "training",
    STAGE,
    "time that training stood still for the last checkpoint: until the one before is written and its own state is "
    "copied, the writing goes on beside the next steps",
)
PIPELINE_BUBBLE = Metric(
    "ilm_pipeline_bubble",
    "gauge",
    "share",
    "training",
    STAGE,
    "share of a step that a rank of the pipeline waits for its first and after its last micro-batch: not measured, but "
    "predicted from the schedule, (pp - 1) / (virtual_stages * micro-batches + pp - 1)",
)
GPU_PEAK = Metric(
    "ilm_gpu_peak_bytes",
    "gauge",
    "bytes",
    "training",
    STAGE,
    "most memory that tensors of the first worker took of its GPU in the last logged steps",
)
GPU_RESERVED = Metric(
    "ilm_gpu_reserved_bytes",
    "gauge",
    "bytes",
    "training",
    STAGE,
    "most memory that its allocator held in them: what is above the peak is fragments",
)
BAD_STEPS = Metric(
    "ilm_bad_steps", "counter", "steps", "training", ("stage", "incident"), "steps that the guard did not apply"
)

REWARD_MEAN = Metric("ilm_reward_mean", "gauge", "1", "rlhf", (), "mean reward score of the last PPO iteration")
KL = Metric("ilm_kl", "gauge", "nats/sequence", "rlhf", (), "mean KL(policy || reference) of the last PPO iteration")
RESPONSE_TOKENS = Metric(
    "ilm_response_tokens", "gauge", "tokens", "rlhf", (), "mean response length of the last PPO iteration"
)
CUT_ANSWERS = Metric(
    "ilm_cut_answers_share", "gauge", "share", "rlhf", (), "answers of the last PPO iteration that reach the limit"
)
MISMATCH_KL = Metric(
    "ilm_mismatch_kl", "gauge", "nats/token", "rlhf", (), "KL(sampler || policy) at the same weights, with a correction"
)
CORRECTED = Metric(
    "ilm_corrected_share", "gauge", "share", "rlhf", (), "tokens whose importance weight was held or cut in it"
)
DOMAIN_REWARD = Metric(
    "ilm_domain_reward", "gauge", "1", "rlhf", ("domain",), "mean reward score of the domain's prompts in it"
)
DOMAIN_KL = Metric(
    "ilm_domain_kl",
    "gauge",
    "nats/sequence",
    "rlhf",
    ("domain",),
    "mean KL(policy || reference) of the domain's prompts",
)
PPO_SECONDS = Metric(
    "ilm_ppo_seconds",
    "gauge",
    "s",
    "rlhf",
    ("phase",),
    "time of the last PPO iteration by phase: weights, rollout, score, train, and `wait` for what is none of them",
)
PPO_TOKENS_PER_SECOND = Metric(
    "ilm_ppo_tokens_per_second", "gauge", "tokens/s", "rlhf", (), "prompt and response tokens over the whole iteration"
)
STALENESS = Metric(
    "ilm_ppo_staleness", "gauge", "versions", "rlhf", (), "by how many updates the policy was ahead of its rollouts"
)
WEIGHT_BYTES = Metric(
    "ilm_weight_bytes", "gauge", "bytes", "rlhf", (), "weights that each engine got before the iteration"
)

FAILURES = Metric(
    "ilm_failures",
    "counter",
    "failures",
    "health",
    ("stage", "category"),
    "attempts at training that a fault ended; in PPO: ranks that were lost",
)
RUN_DISK_FREE = Metric(
    "ilm_run_disk_free_share", "gauge", "share", "health", STAGE, "share of the run folder's file system that is free"
)

TABLE = tuple(value for value in globals().values() if isinstance(value, Metric))

# Metric -> figure of a row of the training's `metrics.jsonl`.
OF_TRAINING_ROWS = (
    (TRAIN_LOSS, "loss"),
    (TRAIN_STEP, "step"),
    (TRAIN_STEPS, "steps"),
    (LEARNING_RATE, "lr"),
    (TOKENS_PER_SECOND, "tokens_per_second"),
    (GRADIENT_NORM, "grad_norm"),
    (MFU, "mfu"),
    (DATA_WAIT, "data_share"),
    (CHECKPOINT_WAIT, "checkpoint_share"),
    (CHECKPOINT_SECONDS, "checkpoint_seconds"),
    (PIPELINE_BUBBLE, "pipeline_bubble"),
    (GPU_PEAK, "gpu_peak_bytes"),
    (GPU_RESERVED, "gpu_reserved_bytes"),
)
# Metric -> figure of a row of PPO: plain figures, those of a correction, which other rows lack, and figures by domain.
OF_PPO_ROWS = (
    (REWARD_MEAN, "reward"),
    (KL, "kl"),
    (RESPONSE_TOKENS, "response_tokens"),
    (CUT_ANSWERS, "cut_share"),
    (WEIGHT_BYTES, "weight_bytes"),
    (STALENESS, "staleness"),
)
OF_PPO_CORRECTION = ((MISMATCH_KL, "mismatch_kl"), (CORRECTED, "corrected_share"))
OF_PPO_DOMAINS = ((DOMAIN_REWARD, "reward_by_domain"), (DOMAIN_KL, "kl_by_domain"))

# One object for each name in a process: Ray would register a second one again on every call.
_counters: dict[str, Counter] = {}
_gauges: dict[str, "KeptGauge"] = {}


def counter(metric: Metric) -> Counter:
    """The process's counter of `metric`; `.inc(value, tags={...})`. Raises ValueError for a gauge."""
    _check(metric, "counter")
    if metric.name not in _counters:
        _counters[metric.name] = Counter(metric.name, description=metric.description, tag_keys=metric.tags)
    return _counters[metric.name]


class KeptGauge:
    """A gauge whose values are exported until they end, however long ago they were set."""

    def __init__(self, metric: Metric) -> None:
        self._gauge = Gauge(metric.name, description=metric.description, tag_keys=metric.tags)
        self._values: dict[tuple[tuple[str, str], ...], float] = {}

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self._values[tuple((tags or {}).items())] = value
        self._gauge.set(value, tags)

    def end(self, tags: dict[str, str] | None = None) -> None:
        """Stop exporting the value."""
        self._values.pop(tuple((tags or {}).items()), None)

    def renew(self) -> None:
        for tags, value in list(self._values.items()):
            self._gauge.set(value, dict(tags))


def gauge(metric: Metric) -> KeptGauge:
    """The process's gauge of `metric`; `.set(value, tags={...})`. Raises ValueError for a counter."""
    _check(metric, "gauge")
    if not _gauges:
        threading.Thread(target=_renew, name="gauges", daemon=True).start()
    if metric.name not in _gauges:
        _gauges[metric.name] = KeptGauge(metric)
    return _gauges[metric.name]


def _renew() -> None:
    while True:
        time.sleep(EVERY_S)
        if ray.is_initialized():
            for kept in list(_gauges.values()):
                kept.renew()


@contextlib.contextmanager
def watched_disk(folder: Path, stage: str) -> Iterator[None]:
    """Inside the context this process exports the free share of `folder`'s file system every EVERY_S seconds."""
    over, kept = threading.Event(), gauge(RUN_DISK_FREE)

    def watch() -> None:
        while not over.is_set():
            disk = shutil.disk_usage(folder)
            kept.set(disk.free / disk.total, {"stage": stage})
            over.wait(EVERY_S)

    thread = threading.Thread(target=watch, name="disk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5.0)
        kept.end({"stage": stage})  # this process may live on: the last value must fire no alert when there is room


def _check(metric: Metric, kind: str) -> None:
    if metric.kind != kind:
        raise ValueError(f"metric '{metric.name}' is a {metric.kind}, not a {kind}")
