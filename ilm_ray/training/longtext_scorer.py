"""Task of the small InternLM2 that a run trains to score long texts where `long_text.scorer` names no model."""

from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.layout import Layout
from ilm_ray.config.training import PhaseConfig
from ilm_ray.model.initial import copy_shares
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.training.induction_head import ROPE_BASE, initialize_copying
from ilm_ray.training.pretrain import PretrainTask, open_sources

CHECKPOINTS = 4  # on the way: what a crash may cost


class ScorerTask(PretrainTask):
    """Next-token prediction over the run's training shards, from weights that look back."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        sources = open_sources(run_dir / "tokens", "train")
        shares = {name: float(source.total_tokens) for name, source in sources.items() if source.total_tokens}
        super().__init__(scorer_config(config, shares), run_dir)

    def fill(self, part: CausalLM | ScalarModel) -> None:
        whole = CausalLM(self.shape)  # a small one
        initialize_copying(whole, self.config.seed)
        copy_shares(part, whole)


def check_scorer_batch(config: Config) -> None:
    """Raises UserError where the workers of training cannot share a batch of the scorer."""
    unit = 2 * config.long_text.segment_tokens * config.training.workers
    if config.long_text.scorer is None and config.long_text.scorer_batch_tokens % unit:
        raise UserError(
            f"long_text.scorer_batch_tokens={config.long_text.scorer_batch_tokens} must be a multiple of "
            f"2 * segment_tokens * training.workers = {unit}"
        )


def scorer_config(config: Config, shares: dict[str, float]) -> Config:
    """The run's configuration with the scorer's size and one phase over all sources, each by its tokens.

    A context holds two segments: the model shall learn to predict the second from the first.
    """
    settings = config.long_text
    context = 2 * settings.segment_tokens
    phase = PhaseConfig(
        name="scorer",
        steps=settings.scorer_steps,
        context=context,
        rope_base=ROPE_BASE,
        mixture=shares,
        batch_tokens=settings.scorer_batch_tokens,
        max_lr=settings.scorer_lr,
    )
    every = -(-settings.scorer_steps // CHECKPOINTS)
    pretrain = config.pretrain.model_copy(update={"phases": [phase], "checkpoint_every": every})
    layout = "auto" if config.training.layout == "auto" else Layout()  # the model is too small for other degrees
    training = config.training.model_copy(update={"layout": layout})
    update = {"model": settings.scorer_model, "training": training, "pretrain": pretrain, "base": None}
    return config.model_copy(update=update)
