"""Supervised fine-tuning (report section 4.1): ChatML, loss on assistant tokens, pre-training data mixed in."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilm_ray.alignment.conversations import FOLDER, Conversations
from ilm_ray.alignment.inputs import mixed_sequences
from ilm_ray.alignment.ppo.arithmetic import cut_micro_batches, even_micro_batches, share_out
from ilm_ray.alignment.ppo.experience import nothing
from ilm_ray.alignment.pretrain_data import pretrain_mix
from ilm_ray.config import Config
from ilm_ray.config.road import initial_folder
from ilm_ray.data.tokenizer.opening import open_tokenizer, require_fit
from ilm_ray.data.tokens.mixture import Piece, packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import load_shape, read_weights
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.stretches import Stretches, stretches
from ilm_ray.training.plan.trainings import fine_tuning
from ilm_ray.training.pretrain import next_token_losses
from ilm_ray.training.schedule import scheduled_lr
from ilm_ray.training.task import Losses, Task


def chat_labels(ids: Sequence[int] | np.ndarray, loss_mask: Sequence[int] | np.ndarray) -> np.ndarray:
    """Label of each position: the next token where that token is learned from, else IGNORE."""
    labels = np.full(len(ids), IGNORE, dtype=np.int64)
    following, counted = np.asarray(ids)[1:], np.asarray(loss_mask, dtype=bool)[1:]
    labels[:-1][counted] = following[counted]
    return labels


def plan_batches(lengths: np.ndarray, budget: int, epochs: int, seed: int) -> list[np.ndarray]:
    """For every step the numbers of the examples it trains on: shuffled per epoch, at most `budget` tokens each.

    An example longer than that is a step of its own.
    """
    steps = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        steps += [np.array(step) for step in cut_micro_batches(order.tolist(), lengths.tolist(), budget)]
    return steps


def deal(lengths: Sequence[int], micro_tokens: int, ranks: int) -> list[list[list[int]]]:
    """[rank][micro-batch][example]: a step's examples shared out by tokens, at most `micro_tokens` in a micro-batch.

    Every rank has the same number of micro-batches; some may be empty.
    """
    return even_micro_batches(share_out(lengths, ranks), lengths, micro_tokens)


Example = tuple[np.ndarray, np.ndarray]  # token ids and labels
Window = tuple[Packed, Tensor]  # the same of many, packed
IDLE: Window = nothing()  # a micro-batch without examples: other ranks' forwards need a partner


class SFTTask(Task):
    """Conversations, each a document of its own; a share of the tokens is pre-training data.

    This data is `pretrain_data.pretrain_mix`. A micro-batch is packed tokens and the label of each.
    """

    base: Path

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config, self.base = config, initial_folder(config, "sft", run_dir)
        self.checkpoint_every, self.log_every = config.sft.checkpoint_every, config.training.log_every
        tokenizer = open_tokenizer(run_dir / "tokenizer")
        require_fit(tokenizer, load_shape(self.base).vocab_size, str(self.base))
        self.conversations = Conversations(run_dir / "sft" / FOLDER, config.sft.context)
        self.lengths = self.conversations.lengths[self.conversations.train]
        self.plan = plan_batches(self.lengths, config.sft.batch_tokens, config.sft.epochs, config.seed)
        self.steps = len(self.plan)
        self.mixed = mixed_sequences(config.sft)
        if self.mixed:
            mix = pretrain_mix(config, config.sft.pretrain_mixture, config.sft.context, run_dir)
            self.mixture = mix.open(config.seed + 100, self.steps * self.mixed)
        self.stages = 1  # of the pipeline: so many micro-batches, or a multiple, fill it
        self.micro_tokens = config.training.micro_tokens

    def build(self) -> CausalLM:
        return CausalLM(load_shape(self.base).trained_in(self.config.sft.context))

    def fill(self, part: CausalLM | ScalarModel) -> None:
        read_weights(part, self.base)

    def lay_out(self, ranks: int, device: Device) -> Stretches:
        """As `training.layout`, with as many replicas as there is room for; from now on micro-batches suit it."""
        training = fine_tuning(self.config, load_shape(self.base), self.steps)
        layouts = stretches(training, ranks, self.config.training.workers, device)
        self.stages, self.micro_tokens = layouts.all[0].layout.pp, layouts.all[0].micro_tokens
        return layouts

    def learning_rate(self, step: int) -> float:
        return scheduled_lr(self.config.training, step, self.steps, self.config.sft.max_lr)

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Window]:
        """This rank's share of the step's conversations and of the pieces of its pre-training sequences."""
        numbers = self.plan[step]
        first = step * self.mixed
        pieces = [piece for i in range(first, first + self.mixed) for piece in self.mixture.pieces(i)]
        lengths = [*self.lengths[numbers].tolist(), *(p.stop - p.start for p in pieces)]
        micros = deal(lengths, self.micro_tokens, ranks)[rank]
        micros += [[]] * (-len(micros) % self.stages)
        return [
            _packed(
                [self.example(self.conversations.train[numbers[i]]) for i in micro if i < len(numbers)]
                + self._read([pieces[i - len(numbers)] for i in micro if i >= len(numbers)])
            )
            for micro in micros
        ]

    def example(self, number: int) -> Example:
        """Token ids and labels of a conversation, at most `sft.context` of each."""
        ids, learned = self.conversations.example(number)
        context = self.config.sft.context
        return ids[:context], chat_labels(ids, learned)[:context]

    def _read(self, pieces: list[Piece]) -> list[Example]:
        """Tokens and labels of pieces of the pre-training data, each an example of its own."""
        if not pieces:
            return []
        batch, labels = self.mixture.pack(pieces)
        cuts = batch.cu_seqlens.tolist()
        return [(batch.tokens[a:b].numpy(), labels[a:b].numpy()) for a, b in itertools.pairwise(cuts)]

    def count(self, micro: Window) -> float:
        return float((micro[1] != IGNORE).sum())

    def tokens(self, micro: Window) -> int:
        return 0 if micro is IDLE else len(micro[1])

    def context(self, step: int) -> int:
        return round(float(np.mean(self.lengths[self.plan[step]])))

    def losses(self, model: Any, micro: Window) -> Losses:
        return next_token_losses(model, *micro)

    def before_step(self, model: Any, step: int, evaluate: Callable[..., Any]) -> dict[str, Any] | None:
        """Loss on held-out conversations, before and after."""
        if 0 < step < self.steps:
            return None
        held = self.conversations.heldout
        cut = cut_micro_batches(range(len(held)), self.conversations.lengths[held].tolist(), self.micro_tokens)

        def loss_and_count(model: Any, micro: list[int]) -> list[float]:
            losses = next_token_losses(model, *_packed([self.example(held[i]) for i in micro]))
            return [losses.loss.item(), losses.count]

        total, count = evaluate(model, cut, loss_and_count)
        return {"evaluations": [{"when": "end" if step else "start", "heldout_loss": total / count}]}


def _packed(examples: list[Example]) -> Window:
    """Examples one after the other, each a document; without any `IDLE`."""
    if not examples:
        return IDLE
    batch = packed_from_arrays([ids.astype(np.int64) for ids, _ in examples])
    return batch, torch.from_numpy(np.concatenate([labels for _, labels in examples]))
