"""The conditional reward model (report section 4.2.1): focal ranking loss, log barrier, one condition a domain."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ilm_ray.alignment.ppo.arithmetic import cut_micro_batches
from ilm_ray.alignment.ppo.experience import nothing
from ilm_ray.alignment.reward.conditional import HASH, conditions_hash
from ilm_ray.alignment.reward.metrics import pair_figures, pair_sums
from ilm_ray.alignment.reward.pairs import FOLDER, Pairs, PreferencePair
from ilm_ray.alignment.sft import deal, plan_batches
from ilm_ray.config import Config
from ilm_ray.config.road import initial_folder
from ilm_ray.data.tokenizer.opening import open_tokenizer, require_fit
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.model.weights import load_shape, read_weights
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.stretches import Stretches, stretches
from ilm_ray.training.plan.trainings import reward_training
from ilm_ray.training.schedule import scheduled_lr
from ilm_ray.training.task import Losses, Task


def focal_ranking_loss(chosen: Tensor, rejected: Tensor, gamma: float) -> Tensor:
    """-(1 - 2 max(0, P - 1/2))^gamma log P with P = sigmoid(chosen - rejected); equation 1. Shape kept."""
    margin = chosen - rejected
    focus = 1 - 2 * (torch.sigmoid(margin) - 0.5).clamp(min=0)
    return -(focus**gamma) * F.logsigmoid(margin)


def log_barrier(score: Tensor, bound: float) -> Tensor:
    """-(log(x + bound) + log(bound - x)); equation 2, with bound 5. Shape kept.

    Beyond 99.9% of the bound the curve goes on as its tangent: finite, and with a gradient that still pulls back,
    where clamping the argument would give none.
    """
    edge = 0.999 * bound
    inside = score.clamp(-edge, edge)
    value = -(torch.log(inside + bound) + torch.log(bound - inside))
    slope = 2 * edge / (bound**2 - edge**2)  # derivative at the edge
    return value + slope * (score.abs() - edge).clamp(min=0)


def pair_scores(model: Any, pairs: list[PreferencePair]) -> tuple[Tensor, Tensor]:
    """Rewards of the chosen and the rejected sequences: two tensors (pairs)."""
    device = next(model.parameters()).device
    batch = packed_from_arrays([np.array(s) for p in pairs for s in (p.chosen, p.rejected)]).to(device)
    last = batch.cu_seqlens[1:].long() - 1
    scores = model(batch)[last].view(-1, 2)
    return scores[:, 0], scores[:, 1]


class RewardTask(Task):
    """Batches by tokens, not by pairs; AdamW, cosine from max_lr to min_lr, one or more epochs."""

    base: Path

    def __init__(self, config: Config, run_dir: Path, pairs: Path | None = None) -> None:
        """pairs: folder of their shards, where these are not the stage's own."""
        self.config, self.base = config, initial_folder(config, "reward", run_dir)
        self.checkpoint_every, self.log_every = config.reward.checkpoint_every, config.training.log_every
        tokenizer = open_tokenizer(run_dir / "tokenizer")
        require_fit(tokenizer, load_shape(self.base).vocab_size, str(self.base))
        self.about = {HASH: conditions_hash(tokenizer, config.reward.system_prompts)}
        folder = pairs or run_dir / "reward" / FOLDER
        self.pairs = Pairs(folder, tokenizer, config.reward)
        self.unconditional = Pairs(folder, tokenizer, config.reward, conditional=False)
        lengths = self.pairs.lengths[self.pairs.train]
        self.plan = plan_batches(lengths, config.reward.batch_tokens, config.reward.epochs, config.seed)
        self.steps = len(self.plan)
        self.micro_tokens = config.training.micro_tokens

    def build(self) -> ScalarModel:
        return ScalarModel(load_shape(self.base).trained_in(self.config.reward.context))

    def fill(self, part: CausalLM | ScalarModel) -> None:
        read_weights(part, self.base, head_seed=self.config.seed)

    def lay_out(self, ranks: int, device: Device) -> Stretches:
        """As `training.layout`, without its pipeline: the scores of a micro-batch's pairs belong together."""
        training = reward_training(self.config, load_shape(self.base), self.steps)
        layouts = stretches(training, ranks, self.config.training.workers, device)
        self.micro_tokens = layouts.all[0].micro_tokens
        return layouts

    def learning_rate(self, step: int) -> float:
        r = self.config.reward
        return scheduled_lr(self.config.training, step, self.steps, r.max_lr, r.min_lr / r.max_lr)

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[list[PreferencePair]]:
        numbers = self.pairs.train[self.plan[step]]
        micros = deal(self.pairs.lengths[numbers].tolist(), self.micro_tokens, ranks)[rank]
        return [[self.pairs.pair(numbers[i]) for i in micro] for micro in micros]

    def count(self, micro: list[PreferencePair]) -> float:
        return float(len(micro))

    def tokens(self, micro: list[PreferencePair]) -> int:
        return sum(len(pair.chosen) + len(pair.rejected) for pair in micro)

    def context(self, step: int) -> int:
        return round(float(np.mean(self.pairs.lengths[self.pairs.train[self.plan[step]]])) / 2)

    def losses(self, model: Any, micro: list[PreferencePair]) -> Losses:
        r = self.config.reward
        if not micro:  # the other ranks' forwards need a partner
            idle = model(nothing()[0].to(next(model.parameters()).device)).sum() * 0.0
            return Losses(idle, 0.0, {"ranking_loss": 0.0, "penalty": 0.0, "accuracy": 0.0})
        chosen, rejected = pair_scores(model, micro)
        ranking = focal_ranking_loss(chosen, rejected, r.gamma).sum()
        # The report leaves open how the barrier counts a pair's two scores; we take their mean.
        penalty = (log_barrier(chosen, r.barrier_bound) + log_barrier(rejected, r.barrier_bound)).sum() / 2
        figures = {
            "ranking_loss": ranking.item(),
            "penalty": penalty.item(),
            "accuracy": float((chosen > rejected).sum()),
        }
        return Losses(ranking + r.barrier * penalty, float(len(micro)), figures)

    def before_step(self, model: Any, step: int, evaluate: Callable[..., Any]) -> dict[str, Any] | None:
        """Figures of held-out pairs at the end, by domain, with and without the conditions (see `pair_figures`)."""
        if step < self.steps:
            return None
        figures: dict[str, dict[str, Any]] = {}
        for name, pairs in (("conditional", self.pairs), ("unconditional", self.unconditional)):
            total: list[float] = []
            for place in sorted(set(pairs.domain[pairs.heldout])):
                numbers = pairs.heldout[pairs.domain[pairs.heldout] == place].tolist()
                cut = cut_micro_batches(range(len(numbers)), pairs.lengths[numbers].tolist(), self.micro_tokens)
                sums = evaluate(model, [[numbers[i] for i in micro] for micro in cut], partial(_sums, pairs))
                total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
                figures.setdefault(pairs.domains[place], {})[name] = pair_figures(sums)
            figures.setdefault("all", {})[name] = pair_figures(total)
        return {"evaluations": [{"when": "end", "figures": figures, "pairs": len(self.pairs), "cut": self.pairs.cut}]}


def _sums(pairs: Pairs, model: Any, numbers: list[int]) -> list[float]:
    some = [pairs.pair(number) for number in numbers]
    chosen, rejected = pair_scores(model, some)
    return pair_sums(
        chosen.tolist(), rejected.tolist(), [p.answer_tokens[0] for p in some], [p.answer_tokens[1] for p in some]
    )
