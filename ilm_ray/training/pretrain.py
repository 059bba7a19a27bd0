"""Pre-training in phases (report section 3.3): the context grows, the RoPE base changes, the data mix changes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.road import initial
from ilm_ray.config.training import PhaseConfig, TrainingConfig
from ilm_ray.data.tokenizer.opening import open_tokenizer, require_fit
from ilm_ray.data.tokens.mixture import Mixture
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.weights import load_shape, read_weights
from ilm_ray.training.faults.guard import nth_kept
from ilm_ray.training.measure.heldout import Window, bits_per_byte, phase_windows
from ilm_ray.training.parallel.parallelize import ParallelModel
from ilm_ray.training.plan.devices import Device
from ilm_ray.training.plan.shape import continued, shape_of
from ilm_ray.training.plan.stretches import Stretches, stretches
from ilm_ray.training.plan.trainings import pretraining
from ilm_ray.training.schedule import scheduled_lr
from ilm_ray.training.task import Losses, Task


def enter_phase(model: ParallelModel, phase: PhaseConfig, known: int = 0) -> None:
    """Give a model the RoPE base and the context of a phase, in place; known: a context that it had before it all."""
    for part in model.parts:
        base, context = phase.rope_base or part.shape.rope_base, max(phase.context, known)
        part.model.shape = dataclasses.replace(part.shape, rope_base=base, context=context)


def rope_bases(phases: Sequence[PhaseConfig], before: float) -> list[PhaseConfig]:
    """The phases, each with its RoPE base: where it names none, that before it. before: of the model at the start."""
    settled = list[PhaseConfig]()
    for phase in phases:
        before = phase.rope_base or before
        settled.append(phase.model_copy(update={"rope_base": before}))
    return settled


def open_sources(folder: Path, split: str) -> dict[str, TokenSource]:
    """All sources of a tokens stage, by name."""
    return {path.name: TokenSource(path / split) for path in sorted(folder.iterdir()) if (path / split).is_dir()}


def phase_mixtures(phases: Sequence[PhaseConfig], seed: int, run_dir: Path) -> list[Mixture]:
    """The mixture of each phase, from the run's tokens and, if that stage has run, its long texts.

    Raises UserError where a phase names a source without tokens: the shares of the others would grow in silence.
    """
    sources = open_sources(run_dir / "tokens", "train")
    for phase in phases:
        present = {name for name in phase.mixture if name in sources and sources[name].total_tokens}
        if absent := sorted(phase.mixture.keys() - present):
            raise UserError(
                f"the mixture of phase {phase.name} names {', '.join(absent)}, and the corpus holds no token of that "
                f"(it has {', '.join(sources) or 'none at all'}); give the data stages such data, or set "
                "pretrain.phases with a mixture of what is there"
            )
    # The stage's own scorer is trained before its marks are whole, and has no use for them.
    long = long_documents(run_dir / "long_text", sources) if any(p.short_share for p in phases) else {}
    # A seed of its own for each phase, so that no phase begins with the documents of the one before.
    sizes = [(p.short_share or None, p.short_context, long, p.steps * p.sequences) for p in phases]
    return [
        Mixture(sources, p.mixture, p.context, seed + i, *size)
        for i, (p, size) in enumerate(zip(phases, sizes, strict=True))
    ]


def long_documents(folder: Path, sources: Mapping[str, TokenSource]) -> dict[str, np.ndarray]:
    """Source -> which of its documents the stage `long_text` marked as long; sources that it did not judge are absent.

    Raises UserError where its files belong to other tokens.
    """
    try:
        return {
            name: source.marks(folder / name / "train", "long")
            for name, source in sources.items()
            if (folder / name / "train").is_dir()
        }
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} does not belong to the run's tokens ({error}); delete it or run its stage again"
        ) from None


def phase_of(phases: Sequence[PhaseConfig], step: int) -> tuple[int, int]:
    """(number of the phase, step within it); the end of training belongs to the last phase."""
    number = 0
    while number < len(phases) - 1 and step >= phases[number].steps:
        step -= phases[number].steps
        number += 1
    return number, step


def learning_rate(phases: Sequence[PhaseConfig], training: TrainingConfig, step: int) -> float:
    """The rate of a step. A phase with a `max_lr` begins a schedule, which all following phases without one share.

    The report (section 3.3) has one cosine over the phases of 4k and 32k context: training goes on where it was, though
    context and RoPE base change.
    """
    number, inside = phase_of(phases, step)
    first = max(i for i, phase in enumerate(phases[: number + 1]) if phase.max_lr is not None)
    later = (i for i, phase in enumerate(phases) if i > number and phase.max_lr is not None)
    shared = phases[first : next(later, len(phases))]
    inside += sum(phase.steps for phase in phases[first:number])
    peak = phases[first].max_lr
    assert peak is not None
    steps = sum(phase.steps for phase in shared)
    return scheduled_lr(training, inside, steps, peak)


class PretrainTask(Task):
    """Next-token prediction over the phases, one after the other; the optimizer's moments are carried over."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config, first = config, initial(config, "pretrain")
        self.base = None if first is None else run_dir / first.folder
        tokenizer = open_tokenizer(run_dir / "tokenizer")
        if self.base is None:
            self.shape, self.known = shape_of(config, tokenizer.vocab_size), 0
        else:
            shape = load_shape(self.base)
            require_fit(tokenizer, shape.vocab_size, str(self.base))
            self.shape, self.known = continued(config, shape), shape.context
        self.phases = rope_bases(config.pretrain.phases, self.shape.rope_base)
        self.steps = sum(phase.steps for phase in self.phases)
        self.checkpoint_every, self.log_every = config.pretrain.checkpoint_every, config.training.log_every
        self.byte_lengths = torch.from_numpy(tokenizer.byte_lengths())
        self.mixtures = phase_mixtures(self.phases, config.seed, run_dir)
        self.heldout = open_sources(run_dir / "tokens", "heldout")
        self.skipped: list[list[int]] = [[] for _ in self.phases]  # batches left out, by phase, ascending
        # Sequences of a micro-batch, by phase.
        self.at_once = [config.training.at_once(phase) for phase in self.phases]

    def build(self) -> CausalLM:
        return CausalLM(self.shape, self.config.training.loss_chunk)

    def fill(self, part: CausalLM | ScalarModel) -> None:
        if self.base is None:
            initialize(part, self.config.seed)
        else:
            read_weights(part, self.base)

    def phase_of(self, step: int) -> tuple[int, int]:
        return phase_of(self.phases, step)

    def batch_of(self, step: int) -> tuple[int, int]:
        """(number of the phase, number of the batch within it) that a step reads."""
        number, inside = self.phase_of(step)
        return number, nth_kept(inside, self.skipped[number])

    def lay_out(self, ranks: int, device: Device) -> Stretches:
        """The layouts to train in on so many workers; from now on micro-batches are as large as those allow."""
        training = pretraining(self.config, self.shape)
        layouts = stretches(training, ranks, self.config.training.workers, device)
        self.at_once = [stretch.at_once for stretch in layouts.all]
        return layouts

    def skip(self, first: int, last: int) -> None:
        for number, batch in [self.batch_of(step) for step in range(first, last + 1)]:
            self.skipped[number] = sorted({*self.skipped[number], batch})

    def context(self, step: int) -> int:
        return self.phases[self.phase_of(step)[0]].context

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.phases, self.config.training, step)

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Window]:
        number, batch = self.batch_of(step)
        phase, mixture = self.phases[number], self.mixtures[number]
        first = batch * phase.sequences + rank
        mine, at_once = phase.sequences // ranks, self.at_once[number]
        return [
            mixture.batch(first + start * ranks, min(at_once, mine - start), stride=ranks)
            for start in range(0, mine, at_once)
        ]

    def count(self, micro: Window) -> float:
        return float((micro[1] != IGNORE).sum())

    def tokens(self, micro: Window) -> int:
        return len(micro[1])

    def losses(self, model: Any, micro: Window) -> Losses:
        return next_token_losses(model, *micro)

    def before_step(self, model: Any, step: int, evaluate: Callable[..., Any]) -> dict[str, Any] | None:
        """Enter the phase; at a border measure the end of the old phase and the start of the new one."""
        number, inside = self.phase_of(step)
        phases = [] if inside and step < self.steps else [(self.phases[number], "start")]
        if step == self.steps:
            phases = [(self.phases[-1], "end")]
        elif phases and number > 0:
            phases.insert(0, (self.phases[number - 1], "end"))
        rows = []
        for phase, when in phases:
            enter_phase(model, phase, self.known)
            windows = phase_windows(self.heldout, phase, self.config.evaluation.heldout_sequences * 256)
            figures = bits_per_byte(model, windows, self.byte_lengths, evaluate)
            rows.append({"phase": phase.name, "when": when, "bits_per_byte": figures})
        enter_phase(model, self.phases[number], self.known)
        return {"evaluations": rows} if rows else None


def next_token_losses(model: Any, batch: Packed, labels: Tensor) -> Losses:
    """Summed cross-entropy of a packed batch and the number of predicted tokens."""
    if not isinstance(model, ParallelModel):  # which takes its slice before it moves it
        device = next(model.parameters()).device
        batch, labels = batch.to(device), labels.to(device)
    loss = model(batch, labels, "sum")
    return Losses(loss, float((labels != IGNORE).sum()))
