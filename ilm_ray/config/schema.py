"""All settings of a run, typed. Unknown keys are refused; presets give the values (`presets/*.yaml`).

The sections lie beside this file, by area. Where the InternLM2 report states no number the field's comment says so and
why we chose ours.
"""

from typing import Literal

from pydantic import Field, model_validator

from ilm_ray.config.alignment import OnlineConfig, PPOConfig, RewardConfig, SFTConfig
from ilm_ray.config.data import CodeConfig, DecontaminationConfig, LongTextConfig, TextConfig, TokenizerConfig
from ilm_ray.config.evaluation import BenchmarksConfig, EvaluationConfig
from ilm_ray.config.section import MOST, Count, CountOrZero, How, Place, Section
from ilm_ray.config.serving import ServeConfig
from ilm_ray.config.training import ModelConfig, PretrainConfig, TrainingConfig

Start = Literal["pretrain", "sft", "reward", "ppo", "evaluation"]


class RayConfig(Section):
    """The local Ray that a job starts when it is not submitted to a cluster; the last two hold on clusters too."""

    num_cpus: Count | None = None  # None: all cores; nano names more than a laptop has, since its actors mostly wait
    object_store_mb: int | None = Field(None, ge=80, le=MOST)  # None: Ray's own default, a share of the memory
    dashboard: bool = True
    # Where there are fewer GPUs than workers and ranks, start fewer of them (what is set is the most), or refuse.
    fewer_ranks: bool = False
    hang_s: float = Field(600.0, ge=1, le=1e8)  # a worker that stands still for longer is ended, its task runs again


class TrackConfig(Section):
    """A service that gets the figures of training stages, beside the run folder; none unless `to` names one."""

    to: How[Literal["wandb", "trackio"] | None] = None  # its package must be installed; it reads its own environment
    project: How[str] = Field("ilm_ray", min_length=1, max_length=128)


class Config(Section):
    """All settings of a run. `input` is the glob of web archives."""

    preset: str
    seed: CountOrZero = 1234
    input: Place | None = None
    base: Place | None = None  # a model to begin with: its folder, or hf://owner/name
    start: Start | None = None  # `from=sft`: the stage that trains first; None: the whole road
    ray: RayConfig = RayConfig()
    track: TrackConfig = TrackConfig()
    text: TextConfig = TextConfig()
    code: CodeConfig = CodeConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig
    long_text: LongTextConfig = LongTextConfig()
    training: TrainingConfig = TrainingConfig()
    pretrain: PretrainConfig
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    benchmarks: BenchmarksConfig = BenchmarksConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _layout_fits(self) -> "Config":
        if self.training.layout != "auto":
            layout = self.training.layout.on(self.training.workers)
            for phase in self.pretrain.phases:
                layout.require_batch(f"phase {phase.name}", phase.sequences, self.training.at_once(phase))
            if self.base is None and self.start is None:  # else the size is that of the model that is brought
                layout.require_model(self.model, self.tokenizer.vocab_size)
        return self

    @model_validator(mode="after")
    def _first_base(self) -> "Config":
        first = self.pretrain.phases[0]
        if first.rope_base is None and self.base is None:
            raise ValueError(f"phase {first.name}: rope_base is needed, there is no model before it that has one")
        return self
