"""Checkpoints measured beside training: held-out bits per byte of one, in a process of its own."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ilm_ray.config import Config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.training.checkpoints import commit, states
from ilm_ray.training.measure.heldout import Window, bits_per_byte, phase_windows
from ilm_ray.training.pretrain import open_sources, phase_of


def hold(checkpoint: Path, folder: Path) -> Path:
    """The same files once more in `folder`, by links: training may delete its checkpoint while it is measured."""
    held = folder / checkpoint.name
    shutil.rmtree(held, ignore_errors=True)
    shutil.copytree(checkpoint, held, copy_function=os.link)
    return held


def checkpoint_figures(config: Config, run_dir: Path, checkpoint: Path) -> dict[str, Any]:
    """{"step", "phase", "bits_per_byte": by source and over all} of a checkpoint, with the context of its phase."""
    torch.set_num_threads(1)
    record = commit.read(checkpoint)
    with torch.device("meta"):
        model = CausalLM(Shape.of(record.state["shape"]), config.training.loss_chunk)
    model.to_empty(device="cpu")
    states.load_whole(checkpoint, model)
    phase = config.pretrain.phases[phase_of(config.pretrain.phases, record.step - 1)[0]]
    tokenizer = Tokenizer.load(run_dir / "tokenizer")
    windows = phase_windows(
        open_sources(run_dir / "tokens", "heldout"), phase, config.evaluation.heldout_sequences * 256
    )
    byte_lengths = torch.from_numpy(tokenizer.byte_lengths())
    return {
        "step": record.step,
        "phase": phase.name,
        "bits_per_byte": bits_per_byte(model, windows, byte_lengths, _summed_alone),
    }


@torch.no_grad()
def _summed_alone(model: Any, windows: Sequence[Window], figures: Any) -> list[float]:
    rows: list[list[float]] = [figures(model, window) for window in windows]
    return [sum(column) for column in zip(*rows, strict=True)]
