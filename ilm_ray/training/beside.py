"""Checkpoints measured beside training: held-out bits per byte of one, in a process of its own."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ilm_ray.config import Config
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.training.checkpoints import commit, states
from ilm_ray.training.measure import cost
from ilm_ray.training.measure.heldout import Window, bits_per_byte, phase_windows
from ilm_ray.training.pretrain import open_sources, phase_of

BESIDE_S = 600.0  # that a core may take for a checkpoint beside training on GPUs; the next ones would queue up


def hold(checkpoint: Path, folder: Path) -> Path:
    """The same files once more in `folder`, by links: training may delete its checkpoint while it is measured."""
    held = folder / checkpoint.name
    shutil.rmtree(held, ignore_errors=True)
    shutil.copytree(checkpoint, held, copy_function=os.link)
    return held


def to_measure(run_dir: Path, held: Path) -> tuple[Shape, int]:
    """The size of a held checkpoint's model, and the number of sources with held-out text."""
    sources = sum(1 for source in (run_dir / "tokens").iterdir() if (source / "heldout").is_dir())
    return Shape.of(commit.read(held).state["shape"]), sources


def device_beside(config: Config, shape: Shape, sources: int, gpus: int) -> tuple[str | None, float]:
    """The device that measures a checkpoint beside training, and the seconds after which it is given up.

    A GPU of the cluster's `gpus` that training leaves free, else a core. None, and the seconds of the work, where a
    core would take more than BESIDE_S beside training on GPUs.
    """
    context = max(phase.context for phase in config.pretrain.phases)
    tokens = sources * max(config.evaluation.heldout_sequences * 256, context)
    on_gpu = gpus > config.training.workers
    work_s = cost.forward_s(shape, tokens, context, on_gpu)
    if gpus and not on_gpu and work_s > BESIDE_S:
        return None, work_s
    return "cuda" if on_gpu else "cpu", cost.deadline_s(shape, work_s)


def checkpoint_figures(config: Config, run_dir: Path, checkpoint: Path, device: str = "cpu") -> dict[str, Any]:
    """{"step", "phase", "bits_per_byte": by source and over all} of a checkpoint, with the context of its phase.

    In bf16 on a GPU, in fp32 on one core.
    """
    torch.set_num_threads(1)
    record = commit.read(checkpoint)
    with torch.device("meta"):
        model = CausalLM(Shape.of(record.state["shape"]), config.training.loss_chunk)
    model.to_empty(device="cpu")
    states.load_whole(checkpoint, model)
    on_gpu = device != "cpu"
    model.to(device, torch.bfloat16 if on_gpu else torch.float32)
    phase = config.pretrain.phases[phase_of(config.pretrain.phases, record.step - 1)[0]]
    tokenizer = open_tokenizer(run_dir / "tokenizer")
    windows = phase_windows(
        open_sources(run_dir / "tokens", "heldout"),
        phase,
        config.evaluation.heldout_sequences * 256,
        cost.packed_tokens(model.shape, phase.context, on_gpu),
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
