"""The conditional reward model (report section 4.2.1): focal ranking loss, log barrier, one condition a domain."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ilm_ray.alignment.inputs import preference_rows
from ilm_ray.alignment.ppo.arithmetic import cut_micro_batches
from ilm_ray.alignment.ppo.experience import nothing
from ilm_ray.alignment.reward.conditional import HASH, condition_prefix, conditioned, conditions_hash
from ilm_ray.alignment.reward.metrics import pair_figures, pair_sums
from ilm_ray.alignment.sft import deal, plan_batches
from ilm_ray.config import Config
from ilm_ray.config.road import initial_folder
from ilm_ray.data.tokenizer.chat import AnyTokenizer, begins_chat, encode_chat
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


@dataclass(frozen=True)
class PreferencePair:
    """One preference: token ids of both sequences, condition and final reward token included."""

    domain: str
    chosen: list[int]
    rejected: list[int]
    answer_tokens: tuple[int, int] = (0, 0)  # of the two answers alone
    cut: bool = False  # one of its conversations is longer than `reward.context` and has lost its beginning

    @property
    def tokens(self) -> int:
        return len(self.chosen) + len(self.rejected)


def read_pairs(config: Config, tokenizer: AnyTokenizer, split: str, conditional: bool = True) -> list[PreferencePair]:
    """Tokenised preferences of a split; without conditions for comparison if `conditional` is False."""
    rows, prompts = preference_rows(config), config.reward.system_prompts
    begins = begins_chat(tokenizer)
    prefixes = {d: condition_prefix(tokenizer, text) if conditional else [] for d, text in prompts.items()}

    def ids(row: dict[str, Any], answer: str) -> tuple[list[int], bool]:
        messages, prefix = [*row["prompt"], {"role": "assistant", "content": answer}], prefixes[row["domain"]]
        whole = encode_chat(tokenizer, messages).ids
        made = conditioned(prefix, whole, tokenizer.reward_id, config.reward.context, begins)
        return made, len(made) < len(prefix) + len(whole) + 1

    def pair(row: dict[str, Any]) -> PreferencePair:
        answers = row["chosen"], row["rejected"]
        lengths = [len(tokenizer.encode(answer)) for answer in answers]
        (chosen, a), (rejected, b) = ids(row, answers[0]), ids(row, answers[1])
        return PreferencePair(row["domain"], chosen, rejected, (lengths[0], lengths[1]), a or b)

    return [pair(row) for row in rows if row.get("split", "train") == split]


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

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config, self.base = config, initial_folder(config, "reward", run_dir)
        self.checkpoint_every, self.log_every = config.reward.checkpoint_every, config.training.log_every
        tokenizer = open_tokenizer(run_dir / "tokenizer")
        require_fit(tokenizer, load_shape(self.base).vocab_size, str(self.base))
        self.about = {HASH: conditions_hash(tokenizer, config.reward.system_prompts)}
        self.pairs = read_pairs(config, tokenizer, "train")
        self.heldout = {
            "conditional": read_pairs(config, tokenizer, "heldout"),
            "unconditional": read_pairs(config, tokenizer, "heldout", conditional=False),
        }
        lengths = np.array([p.tokens for p in self.pairs])
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
        pairs = [self.pairs[i] for i in self.plan[step]]
        micros = deal([p.tokens for p in pairs], self.micro_tokens, ranks)[rank]
        return [[pairs[i] for i in micro] for micro in micros]

    def count(self, micro: list[PreferencePair]) -> float:
        return float(len(micro))

    def tokens(self, micro: list[PreferencePair]) -> int:
        return sum(p.tokens for p in micro)

    def context(self, step: int) -> int:
        return round(float(np.mean([self.pairs[i].tokens / 2 for i in self.plan[step]])))

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
        for name, pairs in self.heldout.items():
            total: list[float] = []
            for domain in sorted({p.domain for p in pairs}):
                some = [p for p in pairs if p.domain == domain]
                cut = cut_micro_batches(range(len(some)), [p.tokens for p in some], self.micro_tokens)
                sums = evaluate(model, [[some[i] for i in micro] for micro in cut], _sums)
                total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
                figures.setdefault(domain, {})[name] = pair_figures(sums)
            figures.setdefault("all", {})[name] = pair_figures(total)
        everything = [*self.pairs, *self.heldout["conditional"]]
        counts = {"pairs": len(everything), "cut": sum(pair.cut for pair in everything)}
        return {"evaluations": [{"when": "end", "figures": figures, **counts}]}


def _sums(model: Any, pairs: list[PreferencePair]) -> list[float]:
    chosen, rejected = pair_scores(model, pairs)
    lengths = [p.answer_tokens for p in pairs]
    return pair_sums(chosen.tolist(), rejected.tolist(), [n for n, _ in lengths], [n for _, n in lengths])
