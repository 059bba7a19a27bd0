"""Cost of packing with document masks: tokens a second of training against one document of the full context.

    python benchmarks/packing.py [--context 4096] [--rounds 5] [--size nano wide] [--threads 1]

Forward and backward of a row of `context` tokens. `one`: a single document, causal and nothing else, which is what a
trainer without document masks computes. `mean 1000`, `mean 150`: log-normal lengths (sigma 1), kept apart. `masked`:
the usual mask, a boolean block-diagonal matrix given to scaled_dot_product_attention, for comparison. Documents attend
to less, so packed rows may well be faster. Rounds alternate; `cpu` counts the seconds that this process computed, which
other processes disturb less than `wall`.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ilm_ray.model.internlm2 import Attention, CausalLM, Packed, Shape, initialize

SIZES = {"nano": Shape(2048, 4, 128, 2, 2, 32, 384), "wide": Shape(8192, 4, 512, 4, 2, 64, 1536)}
MEANS = (1000, 150)


def lengths(mean: float, context: int, seed: int) -> list[int]:
    """Log-normal lengths of documents that fill a row; the last is cut, as packing does it."""
    generator = torch.Generator().manual_seed(seed)
    left, cuts = context, list[int]()
    while left:
        drawn = int(torch.randn(1, generator=generator).add(math.log(mean) - 0.5).exp()) + 1
        cuts.append(min(drawn, left))
        left -= cuts[-1]
    return cuts


def masked(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Attention as most trainers mask it: every key of the row is computed, those of other documents are hidden."""
    rows = torch.arange(len(q))
    document = torch.searchsorted(cu_seqlens[1:], rows, right=True)
    mask = (document[:, None] == document[None, :]) & (rows[:, None] >= rows[None, :])
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)


def batch_of(cut: list[int], vocabulary: int) -> tuple[Packed, Tensor]:
    tokens = torch.arange(sum(cut)) * 7919 % vocabulary
    batch = Packed.of([piece.tolist() for piece in tokens.split(cut)])
    return batch, torch.roll(batch.tokens, -1)


def step_of(model: CausalLM, batch: Packed, labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        model(batch, labels, "sum").backward()

    return step


def compare(name: str, context: int, rounds: int) -> dict[str, object]:
    shape = SIZES[name]
    model, slow = CausalLM(shape), CausalLM(shape)
    for made in (model, slow):
        initialize(made, 0)
    for module in slow.modules():
        if isinstance(module, Attention):
            module.attend = masked
    steps = {"one": [step_of(model, *batch_of([context], shape.vocab_size))]}
    for mean in MEANS:
        cuts = [lengths(mean, context, seed) for seed in range(3)]
        print(f"{name}: mean {mean}: {[len(cut) for cut in cuts]} documents in a row of {context}")
        steps[f"mean {mean}"] = [step_of(model, *batch_of(cut, shape.vocab_size)) for cut in cuts]
    steps["masked mean 1000"] = [step_of(slow, *batch_of(lengths(1000, context, 0), shape.vocab_size))]
    clocks: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
    for number in range(rounds + 1):
        for kind, made_steps in steps.items():
            for step in made_steps:
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                if number:  # the first round warms up
                    clocks[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
    report: dict[str, object] = {"size": name, "context": context}
    for which, clock in enumerate(("wall", "cpu")):
        speed = {kind: context / statistics.median(s[which] for s in seconds) for kind, seconds in clocks.items()}
        for kind, value in speed.items():
            print(f"{name}, {clock}: {kind:16} {value:9,.0f} tokens/s, {value / speed['one']:.3f} of one document")
            report[f"{clock} {kind}"] = round(value / speed["one"], 3)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [compare(name, args.context, args.rounds) for name in args.size]
    print(json.dumps({"threads": args.threads, "load": round(os.getloadavg()[0], 1), "cases": rows}))


if __name__ == "__main__":
    main()
