"""Which layout to train in: a ranked table of predictions, nothing measured. Needs no Ray and no device.

    python jobs/plan.py --preset 7b --devices 1024 --device h100 [--context 4096] [--top 10]
    python jobs/plan.py --table > docs/plans.md

Model, batch and precision are the preset's. `--table` plans all presets of the report on 8, 64 and 1,024 H100 and H200.
Exit codes as for every job: 0 done, 2 bad input (also: nothing fits), 1 anything else.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ilm_ray.config import Config, load_config
from ilm_ray.errors import UserError
from ilm_ray.parallel.devices import ATTAINABLE_LINK, DEVICES, GIB, USABLE_MEMORY, Device
from ilm_ray.parallel.planner import Plan, Ranking, rank, written
from ilm_ray.parallel.step import Step
from ilm_ray.pretrain.shape import shape_of
from jobs._plain import Parser, run_plain

PRESETS, COUNTS, CONTEXTS, KINDS = ("1_8b", "7b", "20b"), (8, 64, 1024), (4096, 32768, 262144), ("h100", "h200")
COLUMNS = ("tokens/s/device", "MFU", "MFU, causal", "GiB", "micro-batch", "limit", "layout")

PAGE_HEAD = """# Plans: predictions, never measured

Written by `python jobs/plan.py --table`. For each model, context, number and kind of devices: the layout that is
predicted to be fastest among those that fit. No line of this page was run, and no layout was tried at this scale. The
arithmetic and its sources: `ilm_ray/parallel/{{planner,memory,traffic,devices}}.py`.

Assumed: {attainable:.0%} of the dense bf16 peak (989 TFLOP/s) without communication; {link:.0%} of a link's rate (in a
node of 8: 450 GB/s a device; between nodes: 400 GB/s a node); {memory:.0%} of the memory. The model has no activation
checkpointing, so long contexts need many devices. Batch, precision and loss chunk are the presets'; every sequence is
taken as one document. With `gather` the rank of the last slice attends to nearly twice as many keys as the mean: that
counts as computing. MFU counts the attention of all keys, "causal" half of it. Layouts end with where parameters,
gradients and optimizer states live. `limit`: what takes most time beside computing, if it takes a tenth of the step.

Against InternEvo's measurements (7B, 1,024 A100, 2,048 tokens; nothing was fitted to them but the 59% of peak of its
run on 8): optimizer states in groups of 8 at 16M, 8M and 4M tokens a step: 3,388, 2,840 and 2,145 tokens/s/device are
predicted, 3,625, 2,817 and 2,346 were measured. Optimizer states over all 1,024: 3,805 predicted, 2,271 measured: that
collapse is **not** reproduced. A likely reason, not tested: InternEvo sends each owner's weights apart,
FSDP2 a block at once. All three states split: 3,317 in groups of 8 and 2,227 over all are predicted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the JSON line, or the page of all plans; return the exit code."""
    if "--table" in (sys.argv[1:] if argv is None else argv):
        print("\n".join(_page()))
        return 0

    def work(summary: dict[str, Any]) -> None:
        arguments = _parser().parse_args(argv)
        summary |= {name: getattr(arguments, name) for name in ("preset", "devices", "device")}
        config, device = load_config(arguments.preset), DEVICES[arguments.device]
        context = arguments.context or config.pretrain.phases[0].context
        found = _plan(config, arguments.devices, device, context)
        plans = _distinct(found.plans, arguments.top)
        if not plans:
            raise UserError(
                f"no layout of {arguments.preset} on {arguments.devices} {device.name} at context {context}: "
                f"{_reasons(found)}; use more devices, a shorter context or a larger batch"
            )
        for line in _table(("", *COLUMNS), ((str(i), *_cells(plan)) for i, plan in enumerate(plans, 1))):
            print(line)
        print(f"Predictions. {len(found.plans)} layouts fit; left out: {_reasons(found) or 'none'}.")
        summary |= {"context": context, "fit": len(found.plans), "left_out": dict(found.left_out)}
        summary["plans"] = [_figures(plan) for plan in plans]

    return run_plain("plan", work)


def _plan(config: Config, devices: int, device: Device, context: int) -> Ranking:
    """Raises UserError where the preset's batch is no whole number of sequences."""
    pretrain = config.pretrain
    tokens = pretrain.phases[0].batch_tokens
    if tokens % context:
        raise UserError(f"--context {context} must divide the preset's batch of {tokens} tokens; choose another")
    step = Step(context, tokens // context, precision=pretrain.precision, loss_chunk=pretrain.loss_chunk)
    return rank(shape_of(config, config.tokenizer.vocab_size), devices, device, step)


def _distinct(plans: Iterable[Plan], top: int) -> list[Plan]:
    """The first of those with the same figures: with one micro-batch the gradients' setting, for one, has no effect."""
    found: dict[tuple[float, int], Plan] = {}
    for plan in plans:
        found.setdefault((plan.tokens_per_second, plan.memory.total), plan)
        if len(found) == top:
            break
    return list(found.values())


def _cells(plan: Plan) -> tuple[str, ...]:
    return (
        f"{plan.tokens_per_second:,.0f}",
        f"{plan.mfu:.1%}",
        f"{plan.mfu_causal:.1%}",
        f"{plan.memory.total / GIB:.1f}",
        f"{plan.step.at_once} x {plan.step.context}",
        plan.limit,
        written(plan.layout),
    )


def _figures(plan: Plan) -> dict[str, Any]:
    return {
        "layout": plan.layout.model_dump(exclude_defaults=True),
        "micro_tokens": plan.step.at_once * plan.step.context,
        "tokens_per_second_per_device": round(plan.tokens_per_second, 1),
        "mfu": round(plan.mfu, 4),
        "mfu_causal": round(plan.mfu_causal, 4),
        "memory_bytes": plan.memory.total,
        "memory": vars(plan.memory),
        "seconds": {name: round(value, 6) for name, value in vars(plan.times).items()},
        "sent_bytes": {kind: round(size) for kind, size in plan.sent.items()},
        "limit": plan.limit,
    }


def _reasons(found: Ranking) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """As Markdown, columns aligned."""
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    for number, row in enumerate(cells):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def _page() -> Iterator[str]:
    """docs/plans.md."""
    yield from PAGE_HEAD.format(
        attainable=DEVICES["h100"].attainable, link=ATTAINABLE_LINK, memory=USABLE_MEMORY
    ).splitlines()
    for preset in PRESETS:
        config = load_config(preset)
        yield f"\n## {preset}, {config.pretrain.phases[0].batch_tokens:,} tokens a step\n"
        rows = []
        for context in CONTEXTS:
            for count in COUNTS:
                for kind in KINDS:
                    plans = _distinct(_plan(config, count, DEVICES[kind], context).plans, 1)
                    cells = _cells(plans[0]) if plans else ("none fits", *[""] * (len(COLUMNS) - 1))
                    rows.append((f"{context:,}", f"{count:,} {kind}", *cells))
        yield from _table(("context", "devices", *COLUMNS), rows)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="jobs/plan.py", description="Which layout to train in: a ranked table of predictions.")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--devices", type=_positive, required=True, help="how many")
    parser.add_argument("--device", choices=sorted(DEVICES), required=True, help="of which kind")
    parser.add_argument("--context", type=_positive, help="tokens of a sequence (default: the first phase's)")
    parser.add_argument("--top", type=_positive, default=10, help="plans to show (default 10)")
    parser.add_argument("--table", action="store_true", help="print docs/plans.md instead, which takes minutes")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
