"""Our training step against `transformers.Trainer` with the same LLaMA model: tokens a second on the CPU, fp32.

    python benchmarks/train_step.py [--size nano wide] [--batch whole packed] [--mode eager compiled] [--rounds 5]
                                    [--threads 1]

Same weights, batch, threads, clipping, optimizer (each its own AdamW); rounds alternate within one process. A step is
everything from one optimizer step to the next: batch, forward, backward, clipping, AdamW. `whole`: every row is one
document, which needs no mask on either side. `packed`: documents of many lengths in one row, kept apart by
`position_ids` in Transformers. Both losses are compared. Clocks: `wall`, which other processes disturb, and `cpu`, the
seconds that this process computed, which they hardly do (with one thread, for threads that wait for each other spin).
Needs `accelerate` for Transformers' Trainer.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.training.optimizer import adamw
from ilm_ray.training.parallel.parallelize import parallelize

BETAS, EPS, DECAY, RATE, CLIP = (0.9, 0.95), 1e-8, 0.1, 3e-4, 1.0


@dataclass(frozen=True)
class Size:
    shape: Shape
    rows: int
    context: int
    steps: int  # a round


SIZES = {
    "nano": Size(Shape(2048, 4, 128, 2, 2, 32, 384), rows=16, context=256, steps=10),
    "wide": Size(Shape(92_544, 8, 512, 4, 2, 64, 1536), rows=4, context=512, steps=2),
}


def lengths(kind: str, size: Size) -> list[int]:
    """Tokens of the documents of a batch."""
    if kind == "whole":
        return [size.context] * size.rows
    generator = torch.Generator().manual_seed(1)
    left, cuts = size.rows * size.context, list[int]()
    while left:
        drawn = int(torch.randn(1, generator=generator).mul(0.8).exp() * size.context / 4) + 1
        cuts.append(min(drawn, left))
        left -= cuts[-1]
    return cuts


def batches(kind: str, size: Size, count: int) -> list[Packed]:
    generator = torch.Generator().manual_seed(2)
    cuts = lengths(kind, size)
    draw = [torch.randint(0, size.shape.vocab_size, (n,), generator=generator).tolist() for n in cuts * count]
    return [Packed.of(draw[i * len(cuts) : (i + 1) * len(cuts)]) for i in range(count)]


def labels_of(batch: Packed) -> Tensor:
    """The next token of the same document, -100 at its end."""
    labels = torch.roll(batch.tokens, -1)
    labels[batch.cu_seqlens[1:].long() - 1] = -100
    return labels


Clocks = tuple[float, float]  # wall, cpu


def clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


class Ours:
    """As `ilm_ray.training.loop` does it, on one rank."""

    def __init__(self, model: CausalLM, data: list[Packed], compiled: bool) -> None:
        self.model = parallelize(model, Layout(compile=compiled), torch.device("cpu"), "fp32")
        self.optimizer = adamw(model.named_parameters(), BETAS, EPS, DECAY)
        self.optimizer.param_groups[0]["lr"] = self.optimizer.param_groups[1]["lr"] = RATE
        self.data = itertools.cycle([(batch, labels_of(batch)) for batch in data])

    def run(self, steps: int) -> tuple[list[float], list[Clocks]]:
        """Losses, and clocks before the first step and after each."""
        stamps, losses = [clocks()], list[float]()
        for _ in range(steps):
            window = next(self.data)
            self.optimizer.zero_grad()
            count = int((window[1] != -100).sum())
            losses += [loss.item() / count for loss in self.model.backward_windows([window], 1 / count)]
            self.model.clip_gradients(CLIP)
            self.optimizer.step()
            stamps.append(clocks())
        return losses, stamps


class Theirs:
    """Transformers' Trainer, asked for `steps` more of them at a time."""

    def __init__(self, folder: Path, data: list[Packed], kind: str, size: Size, compiled: bool) -> None:
        rows = [_row(batch, i, kind, size) for batch in data for i in range(size.rows if kind == "whole" else 1)]
        stamps: list[Clocks] = []
        losses: list[float] = []

        class Clock(transformers.TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
                stamps.append(clocks())

        class Recorded(transformers.Trainer):
            def compute_loss(self, *args: Any, **named: Any) -> Any:
                loss = super().compute_loss(*args, **named)
                losses.append(loss.item())
                return loss

            def _get_train_sampler(self, *_: Any) -> Any:  # the order of ours
                return torch.utils.data.SequentialSampler(rows)

        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.stamps, self.losses = stamps, losses

        def trainer(steps: int) -> transformers.Trainer:
            arguments = transformers.TrainingArguments(
                output_dir=str(folder / "trainer"),
                per_device_train_batch_size=size.rows if kind == "whole" else 1,
                max_steps=steps,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                weight_decay=DECAY,
                adam_beta1=BETAS[0],
                adam_beta2=BETAS[1],
                adam_epsilon=EPS,
                max_grad_norm=CLIP,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                torch_compile=compiled,
                dataloader_pin_memory=False,
            )
            return Recorded(self.model, arguments, train_dataset=rows, callbacks=[Clock()])

        self.trainer = trainer

    def run(self, steps: int) -> tuple[list[float], list[Clocks]]:
        """As ours; a step more is made, for the first sets the Trainer up."""
        self.stamps.clear(), self.losses.clear()
        self.trainer(steps + 1).train()
        return self.losses[:], self.stamps[:]


def _row(batch: Packed, row: int, kind: str, size: Size) -> dict[str, Tensor]:
    mine = slice(row * size.context, (row + 1) * size.context) if kind == "whole" else slice(None)
    labels = batch.tokens[mine].clone()
    if kind == "packed":  # Transformers moves labels by one: what would be predicted across a border is ignored
        labels[batch.cu_seqlens[1:-1].long()] = -100
        return {"input_ids": batch.tokens, "labels": labels, "position_ids": batch.positions}
    return {"input_ids": batch.tokens[mine], "labels": labels}


def compare(name: str, kind: str, mode: str, rounds: int) -> dict[str, Any]:
    size, compiled = SIZES[name], mode == "compiled"
    data = batches(kind, size, 4)
    model = CausalLM(size.shape, loss_chunk=1024)
    initialize(model, 0)
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder), "llama", torch.float32)
        theirs = Theirs(Path(folder), data, kind, size, compiled)
    ours = Ours(model, data, compiled)
    sides: dict[str, Any] = {"ours": ours, "trainer": theirs}
    clocks: dict[str, list[Clocks]] = {side: [] for side in sides}
    first = {side: made.run(3 if compiled else 1)[0][0] for side, made in sides.items()}
    for _ in range(rounds):
        for side, made in sides.items():
            stamps = made.run(size.steps)[1]
            clocks[side] += [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(stamps)]
    tokens = len(data[0].tokens)
    case: dict[str, Any] = {"size": name, "batch": kind, "mode": mode}
    for clock, which in (("wall", 0), ("cpu", 1)):
        speed = {side: tokens / statistics.median(step[which] for step in steps) for side, steps in clocks.items()}
        ratio = speed["ours"] / speed["trainer"]
        case |= {f"{clock}_{side}": round(value) for side, value in speed.items()} | {f"{clock}_ratio": round(ratio, 3)}
        print(
            f"{name} {kind} {mode}, {clock}: ours {speed['ours']:,.0f} tokens/s, Trainer {speed['trainer']:,.0f}: "
            f"{ratio:.2f}",
            flush=True,
        )
    gap = abs(first["ours"] - first["trainer"])
    print(f"  first losses {first['ours']:.6f} and {first['trainer']:.6f}", flush=True)
    return case | {"loss_gap": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", nargs="+", choices=["whole", "packed"], default=["whole", "packed"])
    parser.add_argument("--mode", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = [compare(*case, args.rounds) for case in itertools.product(args.size, args.batch, args.mode)]
    dist.destroy_process_group()
    print(json.dumps({"threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1), "cases": rows}))


if __name__ == "__main__":
    main()
