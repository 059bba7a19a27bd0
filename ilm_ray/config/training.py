"""Settings of the model, of every training (workers, layout, precision, checkpoints, faults) and of pre-training."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ilm_ray.config.layout import Layout
from ilm_ray.config.section import (
    MOST,
    Context,
    Count,
    CountOrZero,
    How,
    Momentum,
    Positive,
    PositiveShare,
    Precision,
    Rate,
    Seconds,
    Section,
    Share,
)


class ModelConfig(Section):
    """InternLM2 (report table 3). The vocabulary comes from the tokenizer."""

    layers: Count
    hidden: Count
    kv_heads: Count
    queries_per_kv: Count
    head_dim: Count
    mlp_hidden: Count
    norm_eps: float = Field(1e-5, gt=0, le=0.1)
    # Not stated; InternEvo's configuration uses 0.02, with wo and w2 divided by sqrt(2 * (layer + 1)).
    init_std: PositiveShare = 0.02

    @model_validator(mode="after")
    def _hidden_is_heads(self) -> "ModelConfig":
        heads = self.kv_heads * self.queries_per_kv
        if heads * self.head_dim != self.hidden:
            raise ValueError(
                f"hidden={self.hidden} must equal kv_heads*queries_per_kv*head_dim={heads * self.head_dim}"
            )
        return self


class PhaseConfig(Section):
    """One phase of pre-training (report section 3.3)."""

    name: str
    steps: Count
    context: Context
    # None: that of the phase, or of the model of `base`, before it.
    rope_base: float | None = Field(None, gt=1, le=1e12)
    mixture: dict[str, Positive]  # source -> share of tokens
    batch_tokens: Count  # tokens per optimizer step, over all workers
    # The peak of a cosine that begins with this phase; None: the phase goes on in the cosine of the phase before it.
    max_lr: Rate | None = None
    # Share of sequences whose documents are all shorter than `short_context` (phase 2 keeps half of its data short).
    short_share: Share = 0.0
    short_context: Count = 4096

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        return self.batch_tokens // self.context

    @model_validator(mode="after")
    def _is_sound(self) -> "PhaseConfig":
        if not self.mixture:
            raise ValueError(f"phase {self.name}: mixture needs at least one source")
        if self.batch_tokens % self.context:
            raise ValueError(
                f"phase {self.name}: batch_tokens={self.batch_tokens} must be a multiple of context={self.context}"
            )
        return self


class SpikeConfig(Section):
    """The guard against bad steps. The report says that spikes are handled, not how; as OLMo-core has it:
    a loss or gradient norm above the mean of the last `window` steps by `sigmas` standard deviations."""

    sigmas: Positive = 6.0
    window: int = Field(128, ge=4, le=MOST)  # looked at from its half on
    patience: Count = 3  # bad batches in a row after which the last checkpoint is loaded and all data since left out
    rollbacks: CountOrZero = 3  # then training ends


class OpinionConfig(Section):
    """An OpenAI-compatible endpoint; its key is read from the environment (`ILM_RAY_OPINION_KEY`)."""

    url: str = Field(pattern=r"^https?://")
    model: str


class TrainingConfig(Section):
    """Training of pre-training, SFT, the reward model and the scorer of long texts: workers and their layout,
    optimizer, checkpoints, faults."""

    workers: How[Count] = 2
    # Go on with as few, where the cluster has no more; None: wait for all of them.
    min_workers: How[Count | None] = None
    # How workers share the model. auto: the fastest that the planner finds for these devices, with the recomputation
    # and micro-batches that fit (ilm_ray/training/plan/decide.py). One that is named is used as it is, or refused.
    layout: How[Layout | Literal["auto"]] = "auto"
    calibration: How[str | None] = None  # file of jobs/plan.py --calibrate, for auto; None: figures of data sheets
    precision: Precision = "bf16"
    # Matrix products of blocks in 8 bits, a scale a row (torchao); needs bf16 and a card of compute capability 8.9.
    fp8: bool = False
    # muon: for the matrices of blocks, AdamW for the rest (ilm_ray/training/optimizer.py); the report has AdamW
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: PositiveShare = 1e-8
    weight_decay: Share = 0.1
    clip_norm: Positive = 1.0  # not stated; InternEvo's configuration
    # wsd: warm-up, constant rate, decay over the last `decay_ratio` of the steps; the report has a cosine
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_ratio: PositiveShare = 0.2
    warmup_ratio: Share = 0.01  # not stated; InternEvo's configuration
    final_lr_ratio: Share = 0.1
    keep_checkpoints: How[Count] = 2  # newest ones, on the local disk
    # Where checkpoints are copied to while training goes on: any fsspec URL, such as s3://bucket/folder; null: nowhere.
    store: How[str | None] = None
    store_keep: How[Count | None] = None  # newest ones that stay in the stores; null: all
    store_keep_every: How[Count | None] = None  # beside them, those of every so many steps stay for good
    store_cold: How[str | None] = None  # URL of the cold store, to which those older than `cold_after_hours` move
    cold_after_hours: How[Positive] = 168.0  # the report names no age
    log_every: How[Count] = 10
    # Tokens a worker sends forward at once, the rest of its batch is accumulated; with layout=auto the most that the
    # planner may take.
    micro_tokens: How[Count] = 32_768
    loss_chunk: How[Count] = 1024  # tokens whose logits exist at once
    hang_s: How[Seconds] = 600.0  # a worker that does one thing for longer ends itself and is replaced

    @model_validator(mode="after")
    def _is_sound(self) -> "TrainingConfig":
        if self.store is None and self.store_cold is not None:
            raise ValueError(f"store_cold={self.store_cold} needs a store that checkpoints move from: set store too")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers={self.min_workers} is above workers={self.workers}")
        return self

    def at_once(self, phase: PhaseConfig) -> int:
        """Sequences of a micro-batch."""
        return max(1, self.micro_tokens // phase.context)


class PretrainConfig(Section):
    """Pre-training (report sections 2.1 and 3.3)."""

    phases: list[PhaseConfig] = Field(min_length=1)
    # Names of phases to leave out of `phases`, e.g. one of a preset for whose mixture there is no data.
    without: list[str] = []
    checkpoint_every: How[Count] = 500
    heldout_share: Share = 0.001  # of a source's documents; not stated
    spike: SpikeConfig = SpikeConfig()
    # Checkpoints whose held-out bits per byte are measured by tasks of their own while training goes on: every n-th.
    evaluate_every: How[Count | None] = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        """The phases that are left are a list like any other, with nothing to leave out."""
        if not isinstance(values, dict) or not values.get("without"):
            return values
        if not isinstance(values["without"], list) or not isinstance(values.get("phases"), list):
            return values  # refused by their types
        names = [phase.get("name") if isinstance(phase, dict) else phase.name for phase in values["phases"]]
        if unknown := [name for name in values["without"] if name not in names]:
            raise ValueError(f"without: there is no phase '{unknown[0]}'; the phases are {', '.join(map(str, names))}")
        left = [phase for phase, name in zip(values["phases"], names, strict=True) if name not in values["without"]]
        return values | {"phases": left, "without": []}

    @model_validator(mode="after")
    def _begins_a_cosine(self) -> "PretrainConfig":
        first = self.phases[0]
        if first.max_lr is None:
            raise ValueError(
                f"phase {first.name}: the first phase needs max_lr, there is no cosine before it to go on in"
            )
        return self
