"""The trainer's step on one card: tokens a second, MFU, and peak memory against the planner's prediction.

bf16 with fp32 master weights (`parallelize` on one rank), forward, backward, clipping, fused AdamW; random tokens, a
row is one document. Rows are halved until the prediction fits the card. Cases other than the usual ones:

    python -m benchmarks.gpu --only step --step size=7b,rows=2,recompute=full --step size=7b,attention=flash4
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Case, Figures, Skipped, Where, rounded
from benchmarks.gpu.kernels import kernel, usable
from benchmarks.gpu.rank import attend_with, one_rank
from benchmarks.gpu.rates import matrix_product
from ilm_ray.config import load_config
from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, Packed
from ilm_ray.model.shape import Shape
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from ilm_ray.training.plan.cards import peak_flops
from ilm_ray.training.plan.devices import USABLE_MEMORY
from ilm_ray.training.plan.memory import peak_memory
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.step import OptimizerStep, flops_per_token

GIB = 2**30
LOSS_CHUNK = 4096
STEPS, WARMUP = 10, 3
MEMORY_BOUND = 0.1  # share by which the measured peak may differ from the predicted one
HALF_BILLION = Shape(92_544, 24, 1024, 4, 2, 128, 4096)
TINY = Shape(512, 2, 64, 2, 2, 16, 128)
YES_NO = {"yes": True, "no": False}


@dataclass(frozen=True)
class Step:
    """size: 0_5b, tiny or a preset; rows: at most so many documents of `context` tokens at once."""

    size: str
    context: int = 4096
    rows: int = 4
    recompute: str = "none"
    compile: bool = False
    attention: str = "usable"

    @property
    def name(self) -> str:
        how = "compiled" if self.compile else "eager"
        kernel_name = "" if self.attention == "usable" else f" {self.attention}"
        return f"{self.size} context {self.context} recompute {self.recompute} {how}{kernel_name}"

    @property
    def layout(self) -> Layout:
        return Layout(dp=1, recompute=self.recompute, compile=self.compile)  # type: ignore[arg-type]

    @property
    def shape(self) -> Shape:
        named = {"0_5b": HALF_BILLION, "tiny": TINY}
        if self.size in named:
            return named[self.size]
        config = load_config(self.size)
        return shape_of(config, config.tokenizer.vocab_size)


USUAL = (
    Step("0_5b"),
    Step("1_8b"),
    Step("0_5b", compile=True),
    Step("1_8b", compile=True),
    Step("1_8b", recompute="full"),
    Step("1_8b", recompute="full", compile=True),
    Step("1_8b", recompute="selective"),
    Step("1_8b", context=32_768, rows=1, recompute="full"),
)
SMALL = (Step("tiny", 64, 2), Step("tiny", 64, 2, recompute="full"), Step("tiny", 64, 2, compile=True))


def cases(where: Where) -> list[Case]:
    """Each is a model of its own, built and measured."""
    steps = tuple(map(parsed, where.steps)) or (SMALL if where.tiny else USUAL)
    # On a CPU a compiled step waits for a C++ compiler, on a busy machine for many minutes.
    deadline_s = 600.0 if where.tiny else 90.0
    return [Case(s.name, functools.partial(measure, s, where), deadline_s * (1 + s.compile)) for s in steps]


def parsed(text: str) -> Step:
    """`size=7b,rows=2,compile=yes` as a step. Raises ValueError where it is none."""
    known = {field.name: field.type for field in fields(Step)}
    values: dict[str, object] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in known or not value:
            raise ValueError(f"--step {text}: {part} is not KEY=VALUE with a KEY of {', '.join(known)}")
        kind = known[name]
        values[name] = YES_NO[value] if kind is bool else int(value) if kind is int else value
    return Step(**values)  # type: ignore[arg-type]


def fitting(step: Step, memory: float) -> Step:
    """The step with as many rows as are predicted to fit into `memory` bytes. Raises Skipped where not one does."""
    while predicted_bytes(step) > USABLE_MEMORY * memory:
        if step.rows == 1:
            raise Skipped(f"predicted {predicted_bytes(step) / GIB:.1f} GiB of the card's {memory / GIB:.1f}")
        step = replace(step, rows=step.rows // 2)
    return step


def predicted_bytes(step: Step) -> int:
    """The planner's peak of the step on a lone device."""
    optimizer_step = OptimizerStep(step.context, step.rows, at_once=step.rows, loss_chunk=LOSS_CHUNK)
    return peak_memory(step.shape, step.layout, optimizer_step, fused=True).total


def measure(step: Step, where: Where) -> Figures:
    """Build the model, warm up, time STEPS steps on one and the same batch, whose loss must fall."""
    memory = float(torch.cuda.mem_get_info()[1]) if where.on_gpu else float("inf")
    step = fitting(step, memory)
    count = 2 if where.tiny else STEPS
    wait: Callable[[], object] = torch.cuda.synchronize if where.on_gpu else lambda: None
    with one_rank(where) as device:
        if where.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        take = _step(step, where, device)
        first = take()
        for _ in range(1 if where.tiny else WARMUP):
            take()
        wait()
        started = time.perf_counter()
        for _ in range(count):
            last = take()
        wait()
        seconds = (time.perf_counter() - started) / count
        peak = torch.cuda.max_memory_allocated() if where.on_gpu else None
        torch._dynamo.reset()
    losses = [float(first), float(last)]
    figures = {
        "rows": step.rows, "tokens_s": rounded(step.rows * step.context / seconds, 6), "step_s": rounded(seconds),
        "first_loss": rounded(losses[0], 5), "last_loss": rounded(losses[1], 5), "holds": losses[1] < losses[0],
    }  # fmt: skip
    return figures | _shares(step, where, seconds) | _memory(step, peak)


def _step(step: Step, where: Where, device: torch.device) -> Callable[[], Tensor]:
    """A function that takes an optimizer step and returns the mean loss before it."""
    with torch.device("meta"):
        model = CausalLM(step.shape, loss_chunk=LOSS_CHUNK)
    laid_out = parallelize(model, step.layout, device, "bf16")
    chosen = usable(where.device) if step.attention == "usable" else kernel(step.attention, where.device)
    attend_with(laid_out.parts[0], chosen)
    _draw(laid_out)
    optimizer = torch.optim.AdamW(laid_out.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    window = _batch(step, device)
    tokens = len(window[1])

    def take() -> Tensor:
        optimizer.zero_grad()
        losses = laid_out.backward_windows([window], 1 / tokens)
        laid_out.clip_gradients(1.0)
        optimizer.step()
        return losses[0] / tokens

    return take


@torch.no_grad()
def _draw(model: ParallelModel) -> None:
    """Weights as good as those of `initialize`, drawn on the device: billions of them in no time."""
    for parameter in model.parameters():
        if parameter.dim() < 2:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=0.02)


def _batch(step: Step, device: torch.device) -> tuple[Packed, Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = step.rows * step.context
    tokens = torch.randint(0, step.shape.vocab_size, (count,), generator=generator)
    borders = torch.arange(step.rows + 1, dtype=torch.int32) * step.context
    batch = Packed(tokens, torch.arange(step.context).repeat(step.rows), borders, step.context)
    return batch.to(device), torch.roll(tokens, -1).to(device)


def _shares(step: Step, where: Where, seconds: float) -> Figures:
    """MFU of the data sheet's peak, with the attention of all keys and of half of them; and of the card's own rate.

    mfu and mfu_causal are absent where the planner knows no data sheet of the card.
    """
    a_second = step.rows * step.context / seconds
    whole, causal = (a_second * flops_per_token(step.shape, step.context, halved) for halved in (False, True))
    products = _product_rate(where)
    figures: Figures = {"model_tflops": rounded(whole / 1e12), "of_matrix_product": rounded(whole / products)}
    peak = peak_flops(torch.cuda.get_device_name()) if where.on_gpu else None
    if peak:
        figures |= {"mfu": rounded(whole / peak), "mfu_causal": rounded(causal / peak)}
    return figures


@functools.cache
def _product_rate(where: Where) -> float:
    return 1e12 * float(matrix_product(where)["tflops"])


def _memory(step: Step, peak: int | None) -> Figures:
    predicted = predicted_bytes(step)
    figures: Figures = {"predicted_gib": rounded(predicted / GIB)}
    if peak is not None:
        figures |= {"peak_gib": rounded(peak / GIB), "peak_of_predicted": rounded(peak / predicted)}
        if not step.compile:  # what a compiler keeps is its own choice
            figures["memory_holds"] = abs(peak / predicted - 1) <= MEMORY_BOUND
    return figures
