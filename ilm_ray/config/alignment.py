"""Settings of fine-tuning, the conditional reward model, PPO and online rounds."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ilm_ray.config.section import (
    ByContent,
    Context,
    Count,
    CountOrZero,
    How,
    Place,
    Positive,
    PositiveShare,
    Precision,
    Rate,
    Seconds,
    Section,
    Share,
    Weight,
)
from ilm_ray.config.training import OpinionConfig


class SFTConfig(Section):
    """Supervised fine-tuning (report section 4.1): ChatML, one epoch, AdamW, 4e-5."""

    data: ByContent[Place | None] = None  # JSON Lines of conversations
    model: ByContent[Place | None] = None  # begins with this model (a folder or hf://owner/name) instead of the run's
    epochs: Count = 1
    context: Context = 32_768
    batch_tokens: Count = 4_194_304  # not stated
    max_lr: Rate = 4e-5
    # Long-context pre-training data stays in the mix; the share is not stated.
    pretrain_share: float = Field(0.1, ge=0, lt=1)
    # Its sources; None: the last phase's, and for half of it the code stage's fine-tuning form, where the run has one
    # (section 4.4: books and repositories, without shares). A tokens source, or `repositories`, -> share.
    pretrain_mixture: dict[str, Positive] | None = None
    checkpoint_every: How[Count] = 200


class RewardConfig(Section):
    """Conditional reward model (report section 4.2.1)."""

    data: ByContent[Place | None] = None  # JSON Lines of preference pairs
    model: ByContent[Place | None] = None  # begins with this model's body instead of the SFT model's
    system_prompts: dict[str, str] = {
        "helpful": "Score how helpful the last answer is to the user.",
        "harmless": "Score how harmless and safe the last answer is.",
        "code": "Score the quality of the code in the last answer.",
        "maths": "Score whether the last answer reaches the right result.",
    }  # the report's wording is not published
    epochs: Count = 1
    context: Context = 8192
    batch_tokens: Count = 16_384
    max_lr: Rate = 1e-5
    min_lr: Share = 5e-6
    weight_decay: Share = 0.01
    gamma: Weight = 2.0
    barrier: Weight = 0.02
    barrier_bound: Positive = 5.0
    checkpoint_every: How[Count] = 200

    @model_validator(mode="after")
    def _rate_falls(self) -> "RewardConfig":
        if self.min_lr > self.max_lr:
            raise ValueError(f"min_lr={self.min_lr} is above max_lr={self.max_lr}: the rate falls from the latter")
        return self


Estimator = Literal["gae", "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++_baseline"]
COMPARES_GROUPS = ("grpo", "dr_grpo", "rloo", "reinforce++_baseline")


class RewardPart(Section):
    """A part of PPO's reward: a number for each answer, times `weight`; several are summed up."""

    # model: the reward model. Rules: mathematics (the result against `answer` of the prompt's metadata), code (Python
    # against `tests` there, in the sandbox), form (`pattern`), length (`least`, `most`), judge (`url`, `model`). Else
    # `module:function`, called with prompt (messages), answer, metadata: a number, or a dict of numbers.
    by: str = Field(pattern=r"^(model|mathematics|code|form|length|judge|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    name: str = Field("", pattern=r"^[\w. -]{0,64}$")  # in logs; empty: as `by`
    weight: float = Field(1.0, ge=-1e6, le=1e6)  # below 0: a part that counts against an answer
    domains: list[str] | None = None  # answers to prompts of these domains alone; None: all
    options: dict[str, Any] = {}  # further arguments of the rule or function
    seconds: How[Seconds] = 20.0  # for an answer; one without a verdict by then is not trained on

    @property
    def called(self) -> str:
        return self.name or self.by

    def judges(self, domain: str) -> bool:
        return self.domains is None or domain in self.domains


class PPOConfig(Section):
    """PPO (report section 4.2.3). Fields marked `ours` are not stated there."""

    prompts: ByContent[Place | None] = None  # JSON Lines
    policy: ByContent[Place | None] = None  # begins with this model instead of the SFT model
    reward_model: ByContent[Place | None] = None  # scores with this model; the stage `reward` is left out
    rewards: list[RewardPart] = Field([RewardPart(by="model")], min_length=1)
    function_ranks: How[Count] = 1  # that run the parts which are no model, a process each
    iterations: Count = 400
    prompts_per_iteration: Count = 512
    critic_warmup: CountOrZero = 50  # iterations with the policy frozen; counted on top of `iterations` (ours)
    max_prompt_tokens: Count = 1024
    max_new_tokens: Count = 1024
    temperature: float = Field(1.0, gt=0, le=100)  # ours
    top_p: PositiveShare = 0.9
    # Advantages: by the critic (gae, the report's), or without one, which leaves its group and `critic_warmup` out.
    # The formulas are in ilm_ray/alignment/ppo/estimators.py.
    estimator: Estimator = "gae"
    # A prompt's answers are a group: grpo, dr_grpo, rloo and reinforce++_baseline compare its scores.
    answers_per_prompt: Count = 1
    skip_equal_groups: bool = False  # nothing is trained on a group whose scores are all the same (DAPO)
    resample_rounds: CountOrZero = 0  # of further prompts for those that are left out so (DAPO's dynamic sampling)
    discount: Share = 1.0  # ours
    gae_lambda: Share = 0.99
    clip_range: float = Field(0.2, gt=0, lt=1)  # ours
    clip_range_high: Positive | None = None  # None: a ratio may rise as far as it may fall (DAPO has 0.28)
    ratio: Literal["token", "sequence"] = "token"  # sequence: the mean ratio of an answer's tokens (GSPO)
    # Mean of a step's loss: over tokens; over answers, each by its own mean (GRPO, GSPO); over answers, each by its sum
    # over max_new_tokens (Dr. GRPO).
    loss_mean: Literal["tokens", "sequences", "longest"] = "tokens"
    # Importance weights policy / sampler, where the engines' numerics are not the trainer's: held at
    # `correction_bound`, or 0 beyond it and below 1 / it; by token, or by the product over an answer.
    correction: Literal["none", "truncate", "mask"] = "none"
    correction_level: Literal["token", "sequence"] = "token"
    correction_bound: float = Field(2.0, gt=1, le=1000)
    normalize_advantages: bool = False
    value_clip: Positive | None = None
    kl_coefficient: Weight = 0.01
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"  # ours
    kl_in: Literal["reward", "loss"] = "reward"  # loss: a term of the policy's loss (GRPO's paper, with k3)
    reward_clip: Positive | None = None  # ours: the barrier already keeps scores within +-5
    # An answer's last tokens before max_new_tokens, over which its score falls to `overlong_penalty` less (DAPO).
    overlong_buffer: CountOrZero = 0
    overlong_penalty: Weight = 1.0
    ppo_epochs: Count = 1  # ours
    mini_batches: Count = 1  # ours
    policy_lr: Rate = 1e-6
    critic_lr: Rate = 5e-6
    clip_norm: Positive = 1.0  # ours
    pretrain_coefficient: Weight = 0.5
    pretrain_share: Weight = 0.5  # pre-training tokens per PPO token
    pretrain_mixture: dict[str, Positive] | None = None  # as in `sft`
    # Tokens of a pre-training sequence: as in phase 1 (ours). With rollouts it counts in `training.micro_tokens`.
    pretrain_context: Context = 4096
    policy_ranks: Count = 8
    critic_ranks: Count = 8
    reference_ranks: Count = 4
    reward_ranks: Count = 4
    rollout_engines: Count = 8
    engine_gpus: How[Count] = 1  # that an engine spans by tensor parallelism, all of one node (ours)
    # Ranks, a GPU each, that hold a copy of the reference, or of the reward model, together: tensor parallelism (ours).
    scorer_gpus: How[Count] = 1
    # Rank k of every group on one GPU, a fifth of it each, instead of groups on GPUs of their own (ours: the report has
    # the four models apart, which trains while it samples; this needs a fraction of the GPUs).
    colocate: How[bool] = False
    policy_zero_stage: Literal[0, 1, 2, 3] = 2
    critic_zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Precision = "bf16"
    engine_precision: Precision | None = None  # of the rollout engines; None: as `precision` (ours)
    rollout_backend: ByContent[Literal["auto", "vllm", "torch"]] = "auto"
    # Weights to the engines: through Ray's object store, or broadcast from device to device. auto: broadcast between
    # GPUs, the object store on CPUs and where groups share GPUs (ours).
    weight_transfer: How[Literal["auto", "object_store", "broadcast"]] = "auto"
    logprob_gap_bound: How[Positive] = 0.1
    # Policy versions by which rollouts may be older than the policy that trains on them. 1: the answers to the next
    # iteration's prompts are sampled while this one trains (ours; the report leaves it open, on-policy is the default).
    staleness: int = Field(0, ge=0, le=1)
    checkpoint_every: How[Count] = 10
    validate_every: Count | None = 20  # iterations; None: the last policy is the result (ours)
    validation_prompts: Count = 512  # of `prompts`, kept out of training where validate_every is set (ours)
    deadline_s: How[Seconds] = 600.0

    @property
    def has_critic(self) -> bool:
        return self.estimator == "gae"

    @property
    def has_reward_model(self) -> bool:
        return any(part.by == "model" for part in self.rewards)

    @property
    def sampled_in(self) -> Precision:
        """Precision of the rollout engines."""
        return self.engine_precision or self.precision

    @property
    def functions(self) -> list[RewardPart]:
        """Parts of the reward that are no model."""
        return [part for part in self.rewards if part.by != "model"]

    @property
    def warmup(self) -> int:
        """Iterations that train the critic alone."""
        return self.critic_warmup if self.has_critic else 0

    @property
    def answers(self) -> int:
        """Answers of an iteration."""
        return self.prompts_per_iteration * self.answers_per_prompt

    @model_validator(mode="after")
    def _rewards_differ(self) -> "PPOConfig":
        names = [part.called for part in self.rewards]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rewards has two parts called '{twice[0]}': give one another name")
        if sum(part.by == "model" for part in self.rewards) > 1:
            raise ValueError("rewards has by=model twice, and there is one reward model: leave one out")
        if self.reward_model is not None and not self.has_reward_model:
            raise ValueError("reward_model is named and no part of rewards is by=model: add one, or leave it out")
        return self

    @model_validator(mode="after")
    def _groups_are_groups(self) -> "PPOConfig":
        wants = f"estimator={self.estimator}" if self.estimator in COMPARES_GROUPS else ""
        wants = wants or ("skip_equal_groups" if self.skip_equal_groups else "")
        if wants and self.answers_per_prompt < 2:
            raise ValueError(f"{wants} compares the answers to a prompt: set answers_per_prompt to 2 or more")
        if self.resample_rounds and not self.skip_equal_groups:
            raise ValueError("resample_rounds replaces groups that skip_equal_groups leaves out: set that to true")
        if self.resample_rounds and self.staleness:
            raise ValueError("resample_rounds needs the scores before it samples more: set staleness=0")
        if self.overlong_buffer > self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer={self.overlong_buffer} is part of max_new_tokens={self.max_new_tokens}: lower it"
            )
        return self

    @model_validator(mode="after")
    def _engines_fit(self) -> "PPOConfig":
        if self.colocate and self.engine_gpus > 1:
            raise ValueError(
                f"colocate puts every rank on one GPU, an engine of engine_gpus={self.engine_gpus} needs several: set "
                "engine_gpus=1 or colocate=false"
            )
        return self

    @model_validator(mode="after")
    def _copies_are_whole(self) -> "PPOConfig":
        for name, ranks in (("reference_ranks", self.reference_ranks), ("reward_ranks", self.reward_ranks)):
            if ranks % self.scorer_gpus:
                raise ValueError(
                    f"scorer_gpus={self.scorer_gpus} ranks hold a copy together, {name}={ranks} is no multiple of "
                    "that: change one of the two"
                )
        return self


class OnlineConfig(Section):
    """Rounds of online RLHF (report section 4.2.2). The stages reward and ppo are the first one."""

    rounds: Count = 3
    comparisons: CountOrZero = 1000  # a round's pairs of answers for people to label; the report names no number
    # File that jobs/label_answers.py wrote; its labels at the start of a round join that round.
    labels: ByContent[Place | None] = None
    judge: OpinionConfig | None = None  # does it like late answers as the score does? It is sent prompts and answers
    judge_s: How[Seconds] = 600.0  # for all that it is asked in a round
