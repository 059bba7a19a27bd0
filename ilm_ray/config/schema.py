"""Every setting of every stage, typed. Unknown keys are refused; presets give the values (`presets/*.yaml`).

Where the InternLM2 report states no number the field's comment says so and why we chose ours.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ilm_ray.config.thresholds import RULES, Bounds, merged_rules
from ilm_ray.parallel.layout import Layout

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, so are NaN and infinity; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RayConfig(Section):
    """The local Ray that a job starts when it is not submitted to a cluster."""

    num_cpus: int | None = None  # None: all cores; nano names more than a laptop has, since its actors mostly wait
    object_store_mb: int = Field(512, ge=80)
    dashboard: bool = True


class ClassifierConfig(Section):
    """A classifier of Safe or High-quality. Its score is the probability of GOOD; below the threshold a text falls."""

    threshold: Share = 0.4  # not stated in the report
    # Folder written by jobs/train_classifier.py, linear or BERT-style; None: a linear one is trained in the run.
    model: str | None = None
    labels: str | None = None  # what that is trained on: JSON Lines or CSV; None: the labels shipped with ilm_ray.demo


class ClassifiersConfig(Section):
    """The four classifiers of web text: two of Safe, two of High-quality (report section 3.1)."""

    toxicity: ClassifierConfig = ClassifierConfig()
    pornography: ClassifierConfig = ClassifierConfig()
    advertisement: ClassifierConfig = ClassifierConfig()
    fluency: ClassifierConfig = ClassifierConfig()


class TextSourceConfig(Section):
    """Papers, patents, books: documents that are text already, with settings of their own."""

    input: str  # glob of JSON Lines (.jsonl, .jsonl.gz, .jsonl.zst: one document a row) or .txt (one document a file)
    text_field: str = "text"
    settings: dict[str, Any] = {}  # fields of `text` that differ for this source, e.g. {min_chars: 2000}


class TextConfig(Section):
    """Web text: Format, Clean, Dedup, Safe, High-quality (report section 3.1)."""

    languages: list[str] | None = ["en", "zh"]  # None: every language
    min_chars: int = 200
    max_html_bytes: Count = 4_000_000
    extract_timeout_s: float = 20.0  # CPU seconds a page; ten times as long on the clock ends it too
    prepass: bool = False  # throw out empty, blocked and wrong-language pages by a cheap extractor first
    sources: dict[str, TextSourceConfig] = {}  # name -> text that is no web page
    # Clean: bounds of scores by language ("en", "zh", "*" for the others) and rule; named ones replace the defaults.
    rules: dict[str, dict[str, Bounds]] = Field(RULES, validate_default=True)
    # Dedup (report): 128 hashes, 5-grams, threshold 0.7.
    num_hashes: Count = 128
    ngram: Count = 5
    threshold: Share = 0.7
    verify: bool = False  # drop a near-duplicate only if its signature too puts it at the threshold or above
    shuffle_partitions: int = Field(4, ge=1)
    previous: list[str] = []  # finished runs over other dumps: duplicates are found across all of them
    # Safe and High-quality.
    blocked_domains: str | None = None  # None: the list shipped with ilm_ray.demo
    blocked_words: str | None = None
    classifiers: ClassifiersConfig = ClassifiersConfig()

    @field_validator("rules", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any) -> Any:
        return merged_rules(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _sources_are_sound(self) -> "TextConfig":
        for name in self.sources:
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name):
                raise ValueError(f"source '{name}': write its name in lower-case letters, digits, - and _")
            try:
                self.for_source(name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"source '{name}': settings.{where}: {first['msg']}") from None
        return self

    def for_source(self, name: str) -> "TextConfig":
        """The settings of one source: those of `text`, with what the source says otherwise. Web pages have name ""."""
        if not name:
            return self
        changed = self.sources[name].settings
        if unknown := changed.keys() - SOURCE_SETTINGS:
            raise ValueError(f"source '{name}' cannot set {sorted(unknown)}; it may set {sorted(SOURCE_SETTINGS)}")
        return TextConfig.model_validate(_merged(self.model_dump(exclude={"sources"}), changed))


# What a source may set for itself: the rest holds for all documents of a run together.
SOURCE_SETTINGS = {"languages", "min_chars", "classifiers", "rules"}


def _merged(base: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    inner = {k: v for k, v in changed.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | changed | {k: _merged(base[k], v) for k, v in inner.items()}


class CodeConfig(Section):
    """Code data: source trees become dependency-sorted repository documents (report section 3.2)."""

    # Folders, tar or zip archives, git repositories, folders of these; None: the running Python's standard library.
    source: str | list[str] | None = None
    max_files: Count = 400
    max_file_bytes: Count = 100_000
    max_document_tokens: Count = 32_000  # of cl100k, which cuts code as our tokenizer does
    max_archive_bytes: Count = 4 * 2**30  # unpacked; archives come from strangers
    max_archive_members: Count = 200_000
    threshold: Share = 0.7  # near-duplicates: the report names one for text only
    # Tiers. The report: high (16.8% of bytes) several epochs, moderate (69.9%) once, low (13.3%) dropped.
    high_weight: float = Field(3.0, gt=0)
    moderate_weight: float = Field(1.0, gt=0)
    low_resource_share: Share = 0.01  # languages with a smaller share of the run's bytes are kept whatever their tier
    scorer: str | None = None  # folder written by jobs/label_code.py; None: the rules alone
    # Fine-tuning form: Python files below this score of pylint's fall (not stated); None: none is linted.
    min_lint_score: float | None = Field(8.0, ge=0, le=10)


class DecontaminationConfig(Section):
    """Documents that hold an item of a benchmark stay out of the token shards. The report states no rule; ours."""

    benchmarks: list[str] | None = None  # globs of files; None: the items shipped with ilm_ray.demo; []: none
    ngram: Count = 4  # words of a run that is looked up; a Chinese character is half a word
    share: float = Field(0.8, gt=0, le=1)  # of an item's own words: what a stretch of a document must hold


class TokenizerConfig(Section):
    """cl100k head + learned Chinese tokens + special tokens, padded (report section 3.2.1)."""

    base_tokens: int = 60_004
    # first: the lowest ranks, as in the released models; most_used: those that the kept English and code need most
    base_choice: Literal["first", "most_used"] = "most_used"
    chinese_tokens: int = 32_397
    vocab_size: Count = 92_544  # ids left over are spare; choose it a multiple of what the hardware likes
    training_chars: Count = 50_000_000  # text that tokens are counted on, Chinese, English and code each


class ModelConfig(Section):
    """InternLM2 (report table 3). The vocabulary comes from the tokenizer."""

    layers: Count
    hidden: Count
    kv_heads: Count
    queries_per_kv: Count
    head_dim: Count
    mlp_hidden: Count
    norm_eps: float = 1e-5
    # Not stated; InternEvo's configuration uses 0.02, with wo and w2 divided by sqrt(2 * (layer + 1)).
    init_std: float = 0.02

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
    context: Count
    rope_base: float
    mixture: dict[str, float]  # source -> share of tokens
    batch_tokens: Count  # tokens per optimizer step, over all workers
    max_lr: float
    # Share of sequences whose documents are all shorter than `short_context` (phase 2 keeps half of its data short).
    short_share: Share = 0.0
    short_context: Count = 4096

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        return self.batch_tokens // self.context

    @model_validator(mode="after")
    def _shares(self) -> "PhaseConfig":
        if not self.mixture or any(share <= 0 for share in self.mixture.values()):
            raise ValueError(f"phase {self.name}: mixture needs at least one source and positive shares")
        return self


class SpikeConfig(Section):
    """When a step is not applied, and what then. The report says that spikes are handled, not how; as OLMo-core has it:
    a loss or gradient norm above the mean of the last `window` steps by `sigmas` standard deviations."""

    sigmas: float = Field(6.0, gt=0)
    window: int = Field(128, ge=4)  # looked at from its half on
    patience: Count = 3  # bad batches in a row after which the last checkpoint is loaded and all data since left out
    rollbacks: int = Field(3, ge=0)  # then training ends


class OpinionConfig(Section):
    """An OpenAI-compatible endpoint; its key is read from the environment (`ILM_RAY_OPINION_KEY`)."""

    url: str = Field(pattern=r"^https?://")
    model: str


class PretrainConfig(Section):
    """Pre-training (report sections 2.1 and 3.3), its layout, checkpoints and faults; SFT and reward model share
    them."""

    phases: list[PhaseConfig]
    workers: Count = 2
    min_workers: Count | None = None  # go on with as few, where the cluster has no more; None: wait for all of them
    # How workers share the model; by default each reads its own sequences and keeps a share of all states. auto: the
    # fastest that the planner finds (ilm_ray/parallel/planner.py).
    layout: Layout | Literal["auto"] = Layout()
    calibration: str | None = None  # file of jobs/plan.py --calibrate, for auto; None: figures of data sheets
    precision: Literal["fp32", "bf16"] = "bf16"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0  # not stated; InternEvo's configuration
    warmup_ratio: Share = 0.01  # not stated; InternEvo's configuration
    final_lr_ratio: Share = 0.1
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 2  # newest ones, on the local disk
    # Where checkpoints are copied to while training goes on: any fsspec URL, such as s3://bucket/folder; null: nowhere.
    store: str | None = None
    store_keep: Count | None = None  # newest ones that stay in the stores; null: all
    store_keep_every: Count | None = None  # beside them, those of every so many steps stay for good
    store_cold: str | None = None  # URL of the cold store, to which those older than `cold_after_hours` move
    cold_after_hours: float = Field(168.0, gt=0)  # the report names no age
    log_every: Count = 10
    micro_tokens: Count = 32_768  # tokens a worker sends forward at once; the rest of its batch is accumulated
    loss_chunk: Count = 1024  # tokens whose logits exist at once
    heldout_share: Share = 0.05
    spike: SpikeConfig = SpikeConfig()
    hang_s: float = Field(600.0, gt=0)  # a worker that does one thing for longer ends itself and is replaced
    opinion: OpinionConfig | None = None  # ask a language model too, when an attempt has failed
    # Checkpoints whose held-out bits per byte are measured by tasks of their own while training goes on: every n-th.
    evaluate_every: Count | None = None

    @model_validator(mode="after")
    def _shared_evenly(self) -> "PretrainConfig":
        if self.store is None and self.store_cold is not None:
            raise ValueError(f"store_cold={self.store_cold} needs a store that checkpoints move from: set store too")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers={self.min_workers} is above workers={self.workers}")
        layout = self.layout.on(self.workers) if self.layout != "auto" else None
        for phase in self.phases:
            if phase.batch_tokens % phase.context:
                raise ValueError(
                    f"phase {phase.name}: batch_tokens={phase.batch_tokens} must be a multiple of "
                    f"context={phase.context}"
                )
            if layout is not None:
                layout.require_batch(f"phase {phase.name}", phase.sequences, self.at_once(phase))
        return self

    def at_once(self, phase: PhaseConfig) -> int:
        """Sequences of a micro-batch."""
        return max(1, self.micro_tokens // phase.context)


class LongTextConfig(Section):
    """Long-context data: which long documents are worth it (report section 3.3)."""

    min_bytes: Count = 32 * 1024  # of UTF-8; a document must be longer
    thresholds: str | None = None  # YAML file; None: ilm_ray/longtext/thresholds.yaml
    segment_tokens: int = Field(2048, ge=8)  # of S1 and of S2; the report names no length
    max_pairs: int = Field(64, ge=2)  # of segments that are scored of a document, evenly spaced
    # Folder of a model of ours with its tokenizer, or folder or hub id of a causal language model of Transformers
    # (safetensors); None: a small InternLM2 is trained in the run on its own shards, as the fields below say.
    scorer: str | None = None
    scorer_model: ModelConfig = ModelConfig(
        layers=4, hidden=256, kv_heads=2, queries_per_kv=1, head_dim=128, mlp_hidden=512
    )
    scorer_steps: Count = 1000
    scorer_batch_tokens: Count = 655_360  # a multiple of two segments of every worker of pre-training
    scorer_lr: float = Field(2e-3, gt=0)

    @model_validator(mode="after")
    def _scorer_can_look_back(self) -> "LongTextConfig":
        size = self.scorer_model
        if size.layers < 2 or 2 * size.head_dim < size.hidden:
            raise ValueError(
                "scorer_model needs two layers and heads half as wide as hidden: "
                f"layers={size.layers}, head_dim={size.head_dim}, hidden={size.hidden}"
            )
        return self


class SFTConfig(Section):
    """Supervised fine-tuning (report section 4.1): ChatML, one epoch, AdamW, 4e-5."""

    data: str | None = None  # None: the chat samples shipped with ilm_ray.demo
    epochs: Count = 1
    context: Count = 32_768
    batch_tokens: Count = 4_194_304  # not stated
    max_lr: float = 4e-5
    pretrain_share: Share = 0.1  # long-context pre-training data stays in the mix; the share is not stated
    # Of it the code stage's fine-tuning form (section 4.4), where the run has one; not stated: books and repositories.
    repository_share: Share = 0.5
    checkpoint_every: Count = 200


class RewardConfig(Section):
    """Conditional reward model (report section 4.2.1)."""

    data: str | None = None  # None: the preference pairs shipped with ilm_ray.demo
    system_prompts: dict[str, str] = {
        "helpful": "Score how helpful the last answer is to the user.",
        "harmless": "Score how harmless and safe the last answer is.",
        "code": "Score the quality of the code in the last answer.",
        "maths": "Score whether the last answer reaches the right result.",
    }  # the report's wording is not published
    epochs: Count = 1
    context: Count = 8192
    batch_tokens: Count = 16_384
    max_lr: float = 1e-5
    min_lr: float = 5e-6
    weight_decay: float = 0.01
    gamma: float = 2.0
    barrier: float = 0.02
    barrier_bound: float = 5.0
    checkpoint_every: Count = 200


class PPOConfig(Section):
    """PPO (report section 4.2.3). Fields marked `ours` are not stated there."""

    prompts: str | None = None  # None: the prompts shipped with ilm_ray.demo
    iterations: Count = 400
    prompts_per_iteration: Count = 512
    critic_warmup: int = Field(50, ge=0)  # iterations with the policy frozen; counted on top of `iterations` (ours)
    max_prompt_tokens: Count = 1024
    max_new_tokens: Count = 1024
    temperature: float = 1.0  # ours
    top_p: Share = 0.9
    discount: Share = 1.0  # ours
    gae_lambda: Share = 0.99
    clip_range: float = 0.2  # ours
    normalize_advantages: bool = False
    value_clip: float | None = Field(None, gt=0)
    kl_coefficient: float = 0.01
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"  # ours
    reward_clip: float | None = None  # ours: the barrier already keeps scores within +-5
    ppo_epochs: Count = 1  # ours
    mini_batches: Count = 1  # ours
    policy_lr: float = 1e-6
    critic_lr: float = 5e-6
    clip_norm: float = 1.0  # ours
    pretrain_coefficient: float = 0.5
    pretrain_share: Share = 0.5  # pre-training tokens per PPO token
    policy_ranks: Count = 8
    critic_ranks: Count = 8
    reference_ranks: Count = 4
    reward_ranks: Count = 4
    rollout_engines: Count = 8
    # Rank k of every group on one GPU, a fifth of it each, instead of groups on GPUs of their own (ours: the report has
    # the four models apart, which trains while it samples; this needs a fraction of the GPUs).
    colocate: bool = False
    policy_zero_stage: Literal[0, 1, 2, 3] = 2
    critic_zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["fp32", "bf16"] = "bf16"
    rollout_backend: Literal["auto", "vllm", "torch"] = "auto"
    logprob_gap_bound: float = 0.1
    # Policy versions by which rollouts may be older than the policy that trains on them. 1: the answers to the next
    # iteration's prompts are sampled while this one trains (ours; the report leaves it open, on-policy is the default).
    staleness: int = Field(0, ge=0, le=1)
    checkpoint_every: Count = 10
    validate_every: Count | None = 20  # iterations; None: the last policy is the result (ours)
    validation_prompts: Count = 512  # of `prompts`, kept out of training where validate_every is set (ours)
    deadline_s: float = 600.0


class OnlineConfig(Section):
    """Rounds of online RLHF (report section 4.2.2). The stages reward and ppo are the first one."""

    rounds: Count = 3
    comparisons: int = Field(1000, ge=0)  # a round's pairs of answers for people to label; the report names no number
    labels: str | None = None  # what jobs/label_answers.py wrote; what it holds when a round starts joins that round
    judge: OpinionConfig | None = None  # does it like late answers as the score does? It is sent prompts and answers
    judge_s: float = Field(600.0, gt=0)  # for all that it is asked in a round


class EvaluationConfig(Section):
    """What `jobs/evaluation.py` measures on held-out data, and how much of it."""

    samples: Count = 8  # conversations shown in the report
    heldout_prompts: Count = 256
    heldout_sequences: Count = 64  # held-out sequences per source for bits per byte
    # Text by whose positions bits per byte are told, a file in UTF-8; None: the run's held-out documents.
    position_text: str | None = None


class BenchmarksConfig(Section):
    """Public benchmarks by OpenCompass (report section 5); see docs/evaluation.md."""

    # Folder of a model of a run (<run>/sft/model: its tokenizer is found beside it), or the URL of an OpenAI-compatible
    # endpoint (without /v1), then with the name that it knows the model by.
    model: str | None = None
    served_name: str = "model"
    backend: Literal["auto", "vllm", "torch"] = "auto"  # what serves a folder; auto: vLLM where it is installed
    tokenizer: str | None = None  # folder of tokenizer.json, for a URL; None: lengths are estimated from bytes
    suite: Literal["smoke", "base", "chat", "long", "code", "tools", "alignment", "paper"] = "smoke"
    data: str | None = None  # the folder that holds OpenCompass's `data`; jobs/benchmark_data.py writes one
    environment: str | None = None  # of OpenCompass, on every node; None: .venv-eval beside the running one
    examples: Count | None = None  # the first so many of each set; None: all, for smoke 8
    context: Count | None = None  # tokens of prompt and answer; None: that of the last phase of pre-training
    # What judges the answers of AlpacaEval, MT-Bench, CompassArena and AlignBench: the URL of an OpenAI-compatible
    # endpoint (without /v1), the name of the model there, and the environment variable that holds the key, if any.
    judge: str | None = None
    judge_name: str | None = None
    judge_key_env: str | None = None
    # Needle in a haystack (suites long, paper): a file or folder of plain text; tokens of prompt and answer, None:
    # powers of two up to the context; how many depths, evenly from the first sentence to the last.
    haystack: str | None = None
    needle_lengths: list[Count] | None = None
    needle_depths: Count = 11
    workers: Count = 2
    deadline_s: float = Field(7200.0, gt=0)  # for the next set to be done


class Config(Section):
    """All settings of a run. `input` is the WARC glob; None means the corpus shipped with ilm_ray.demo."""

    preset: str
    seed: int = Field(1234, ge=0)
    input: str | None = None
    ray: RayConfig = RayConfig()
    text: TextConfig = TextConfig()
    code: CodeConfig = CodeConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig
    long_text: LongTextConfig = LongTextConfig()
    pretrain: PretrainConfig
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    benchmarks: BenchmarksConfig = BenchmarksConfig()

    @model_validator(mode="after")
    def _layout_fits_model(self) -> "Config":
        if self.pretrain.layout != "auto":
            self.pretrain.layout.require_model(self.model, self.tokenizer.vocab_size)
        return self
