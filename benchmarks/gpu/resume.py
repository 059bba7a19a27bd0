"""A training that stops at a checkpoint and goes on from it, against the same training without a stop."""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu.cases import Case, Figures, Where, rounded
from benchmarks.gpu.kernels import usable
from benchmarks.gpu.rank import attend_with, one_rank
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, initialize
from ilm_ray.model.loss import IGNORE
from ilm_ray.model.shape import Shape
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import LoopSettings, train
from ilm_ray.training.task import Losses, Task

SHAPE = Shape(32_000, 8, 512, 4, 2, 64, 1536)
TINY = Shape(64, 2, 32, 2, 2, 8, 48)
STEPS, STOP = 8, 4
BOUND = 0.05  # of the relative difference of weights' changes where the device does not repeat itself


def cases(where: Where) -> list[Case]:
    return [
        Case(f"stopped and resumed, {precision}", functools.partial(resumed, precision, where), 120.0)
        for precision in ("bf16", "fp32")
    ]


def resumed(precision: str, where: Where) -> Figures:
    """Train STEPS steps straight through, twice, and once with a stop at STOP; compare the last weights.

    bit_for_bit: the resumed weights are those of the first run. repeats: so are those of the second run, and where
    they are not, no resumed ones can be. The differences are norms of the difference, over that of all steps' change.
    """
    with one_rank(where), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = _weights(where, precision, folder / "start", (0,))
        straight = _weights(where, precision, folder / "straight", (STEPS,))
        again = _weights(where, precision, folder / "again", (STEPS,))
        began = time.perf_counter()
        stopped = _weights(where, precision, folder / "stopped", (STOP, STEPS))
        seconds = time.perf_counter() - began
        newest = max((folder / "stopped" / "checkpoints").iterdir())
        size = sum(file.stat().st_size for file in newest.iterdir())
    change = (straight - start).norm()
    resumed_difference = float((stopped - straight).norm() / change)
    repeated_difference = float((again - straight).norm() / change)
    bit_for_bit, repeats = bool(torch.equal(stopped, straight)), bool(torch.equal(again, straight))
    return {
        "bit_for_bit": bit_for_bit,
        "repeats": repeats,
        "difference": rounded(resumed_difference),
        "difference_of_repeat": rounded(repeated_difference),
        "checkpoint_mib": rounded(size / 2**20),
        "stopped_run_s": rounded(seconds),
        "holds": bit_for_bit or (not repeats and resumed_difference <= max(BOUND, 2 * repeated_difference)),
    }


def _weights(where: Where, precision: str, folder: Path, stops: tuple[int, ...]) -> torch.Tensor:
    """The weights after training to each of `stops` in turn, every time from the newest checkpoint, as one vector.

    The step 0 gives the first weights.
    """
    folder.mkdir()
    task = Documents(where)
    if stops == (0,):
        model = task.build().to_empty(device="cpu")
        task.fill(model)
        return torch.cat([parameter.detach().flatten() for _, parameter in sorted(model.named_parameters())])
    settings = LoopSettings(precision, (0.9, 0.95), 1e-8, 0.1, clip_norm=1.0, storage=Storage(keep_local=1))
    for stop in stops:
        train(task, settings, folder, lambda row: None, Watch(folder / "watch", 0, 600.0), until=stop)
    saved = load_file(folder / "model" / "model.safetensors")
    return torch.cat([saved[name].flatten() for name in sorted(saved)])


class Documents(Task):
    """Random documents of different lengths, two micro-batches a step, the same ones whenever a step is taken."""

    steps, checkpoint_every, log_every = STEPS, STOP, STEPS

    def __init__(self, where: Where) -> None:
        self.where, self.shape = where, TINY if where.tiny else SHAPE

    def build(self) -> CausalLM:
        with torch.device("meta"):
            model = CausalLM(self.shape, loss_chunk=1024)
        return model

    def fill(self, part: CausalLM | ScalarModel) -> None:
        initialize(part, 3)

    def learning_rate(self, step: int) -> float:
        return 1e-3

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        generator = torch.Generator().manual_seed(step)
        longest = 16 if self.where.tiny else 1500
        return [self._packed(generator, longest) for _ in range(2)]

    def _packed(self, generator: torch.Generator, longest: int) -> tuple[Packed, torch.Tensor]:
        lengths = torch.randint(2, longest, (8,), generator=generator).tolist()
        words = self.shape.vocab_size
        batch = Packed.of([torch.randint(0, words, (n,), generator=generator).tolist() for n in lengths])
        labels = torch.full_like(batch.tokens, IGNORE)
        inside = batch.positions[1:] > 0
        labels[:-1][inside] = batch.tokens[1:][inside]
        return batch, labels

    def count(self, micro: Any) -> float:
        return float((micro[1] != IGNORE).sum())

    def tokens(self, micro: Any) -> int:
        return len(micro[1])

    def context(self, step: int) -> int:
        return 1024

    def losses(self, model: Any, micro: Any) -> Losses:
        attend_with(model.parts[0], usable(self.where.device))
        batch, labels = micro
        device = model.device
        return Losses(model(batch.to(device), labels.to(device), "sum"), self.count(micro))
