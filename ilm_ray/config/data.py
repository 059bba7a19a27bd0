"""Settings of the stages that make tokens of documents: text, code, decontamination, tokenizer, long-context data."""

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from ilm_ray.config.section import (
    MOST,
    ByContent,
    Count,
    CountOrZero,
    How,
    Place,
    Positive,
    PositiveShare,
    Rate,
    Seconds,
    Section,
    Share,
)
from ilm_ray.config.thresholds import RULES, Bounds, merged_rules
from ilm_ray.config.training import ModelConfig


class ClassifierConfig(Section):
    """A classifier of Safe or High-quality. Its score is the probability of GOOD; below the threshold a text falls.

    Without a model and without labels it is off.
    """

    threshold: Share | None = None  # None: the one that the model's card chose on labels; the report states none
    model: Place | None = None  # folder written by jobs/train_classifier.py, linear or BERT-style
    labels: Place | None = None  # JSON Lines or CSV: without a model a linear one is trained on them in the run

    @property
    def named(self) -> bool:
        """Whether a model or labels are named."""
        return self.model is not None or self.labels is not None


class ClassifiersConfig(Section):
    """The four classifiers of web text: two of Safe, two of High-quality (report section 3.1)."""

    toxicity: ClassifierConfig = ClassifierConfig()
    pornography: ClassifierConfig = ClassifierConfig()
    advertisement: ClassifierConfig = ClassifierConfig()
    fluency: ClassifierConfig = ClassifierConfig()


class TextSourceConfig(Section):
    """Papers, patents, books: documents that are text already, with settings of their own."""

    # Glob of JSON Lines (.jsonl, .jsonl.gz, .jsonl.zst), Parquet or Arrow (one document a row) or .txt (one a file), or
    # the folder of a data set in a layout of Hugging Face's `datasets`, of which the split `train` is taken.
    input: Place
    text_field: str = "text"
    settings: dict[str, Any] = {}  # fields of `text` that differ for this source, e.g. {min_chars: 2000}


class TextConfig(Section):
    """Web text: Format, Clean, Dedup, Safe, High-quality (report section 3.1)."""

    languages: list[str] | None = ["en", "zh"]  # None: every language
    min_chars: CountOrZero = 200
    max_html_bytes: Count = 4_000_000
    extract_timeout_s: Seconds = 20.0  # CPU seconds a page; ten times as long on the clock ends it too
    prepass: bool = False  # throw out empty, blocked and wrong-language pages by a cheap extractor first
    sources: dict[str, TextSourceConfig] = {}  # name -> text that is no web page
    # Rules of one's own: name -> Python file with a function of this name, text -> float. Bounds stand in `rules`.
    own_rules: ByContent[dict[str, Place]] = {}
    # Clean: bounds of scores by language ("en", "zh", "*" for the others) and rule; named ones replace the defaults.
    rules: dict[str, dict[str, Bounds]] = Field(RULES, validate_default=True)
    # Dedup (report): 128 hashes, 5-grams, threshold 0.7.
    num_hashes: Count = 128
    ngram: Count = 5
    threshold: Share = 0.7
    # Drop a near-duplicate only if its signature too puts it at the threshold or above to the copy that stays; false: a
    # cluster keeps one document, though its members be alike from neighbour to neighbour only.
    verify: bool = True
    shuffle_partitions: How[Count | None] = None  # None: by the number of files
    previous: ByContent[list[Place]] = []  # finished runs over other dumps: duplicates are found across all of them
    # Safe and High-quality.
    blocked_domains: ByContent[Place | None] = None  # file or UT1 folder; None: no domain is blocked
    blocked_words: ByContent[Place | None] = None  # file; None: no word is blocked
    classifiers: ClassifiersConfig = ClassifiersConfig()

    @field_validator("own_rules")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in value if not re.fullmatch(r"[a-z]\w*", name) or name in RULES["en"]]:
            raise ValueError(f"'{wrong[0]}' is no name for a rule: write the name of a function, and none of ours")
        return value

    @field_validator("rules", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return merged_rules(value, info.data.get("own_rules", ())) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _sources_are_sound(self) -> "TextConfig":
        for name in self.sources:
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name):
                raise ValueError(f"source '{name}': write its name in lower-case letters, digits, - and _")
            for classifier, settings in self.sources[name].settings.get("classifiers", {}).items():
                if isinstance(settings, dict) and settings.keys() - {"threshold"}:
                    raise ValueError(f"source '{name}': of classifiers.{classifier} it may set the threshold alone")
            try:
                self.for_source(name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"source '{name}': settings.{where}: {first['msg']}") from None
        return self

    def for_source(self, name: str) -> "TextConfig":
        """The settings of one source: those of `text`, with the source's own in their place. Web pages have name ""."""
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

    # Folders, tar or zip archives, git repositories, folders of these; python://stdlib is the standard library of the
    # running Python. None: no code.
    source: ByContent[Place | list[Place] | None] = None
    max_files: Count | None = None  # that are taken of a repository, an archive or a folder; None: all
    max_file_bytes: Count = 100_000
    max_document_tokens: Count = 32_000  # of cl100k, which cuts code as our tokenizer does
    max_archive_bytes: Count = 4 * 2**30  # unpacked; archives come from strangers
    max_archive_members: Count = 200_000
    threshold: Share = 0.7  # near-duplicates: the report names one for text only
    # Tiers. The report: high (16.8% of bytes) several epochs, moderate (69.9%) once, low (13.3%) dropped.
    high_weight: Positive = 3.0
    moderate_weight: Positive = 1.0
    low_resource_share: Share = 0.01  # languages with a smaller share of the run's bytes are kept whatever their tier
    scorer: ByContent[Place | None] = None  # folder written by jobs/label_code.py; None: the rules alone
    # Fine-tuning form: Python files below this score of pylint's fall (not stated); None: none is linted.
    min_lint_score: float | None = Field(8.0, ge=0, le=10)


class DecontaminationConfig(Section):
    """Documents that hold an item of a benchmark stay out of the token shards. The report states no rule; ours."""

    benchmarks: ByContent[list[Place] | None] = None  # globs of files; None: no document is looked through
    ngram: Count = 4  # words of a run that is looked up; a Chinese character is half a word
    share: PositiveShare = 0.8  # of an item's own words: what a stretch of a document must hold


class TokenizerConfig(Section):
    """cl100k head + learned Chinese tokens + special tokens, padded (report section 3.2.1)."""

    base_tokens: int = Field(60_004, ge=256, le=MOST)  # the 256 bytes among them
    # first: the lowest ranks, as in the released models; most_used: those that the kept English and code need most
    base_choice: Literal["first", "most_used"] = "most_used"
    chinese_tokens: CountOrZero = 32_397
    vocab_size: Count = 92_544  # ids left over are spare; choose it a multiple of what the hardware likes
    training_chars: Count = 50_000_000  # text that tokens are counted on, Chinese, English and code each


class LongTextConfig(Section):
    """Long-context data: which long documents are worth it (report section 3.3)."""

    min_bytes: Count = 32 * 1024  # of UTF-8; a document must be longer
    thresholds: ByContent[Place | None] = None  # YAML file; None: ilm_ray/data/longtext/thresholds.yaml
    segment_tokens: int = Field(2048, ge=8, le=MOST)  # of S1 and of S2; the report names no length
    max_pairs: int = Field(64, ge=2, le=MOST)  # of segments that are scored of a document, evenly spaced
    # Folder of a model of ours with its tokenizer, or folder or hub id of a causal language model of Transformers
    # (safetensors); None: a small InternLM2 is trained in the run on its own shards, as the fields below say.
    scorer: str | None = None
    scorer_model: ModelConfig = ModelConfig(
        layers=4, hidden=256, kv_heads=2, queries_per_kv=1, head_dim=128, mlp_hidden=512
    )
    scorer_steps: Count = 1000
    scorer_batch_tokens: Count = 655_360  # a multiple of two segments of every worker of pre-training
    scorer_lr: Rate = 2e-3

    @model_validator(mode="after")
    def _scorer_can_look_back(self) -> "LongTextConfig":
        size = self.scorer_model
        if size.layers < 2 or 2 * size.head_dim < size.hidden:
            raise ValueError(
                "scorer_model needs two layers and heads half as wide as hidden: "
                f"layers={size.layers}, head_dim={size.head_dim}, hidden={size.hidden}"
            )
        return self
