"""Plans for people: the ranked table, the phases of a run, docs/plans.md."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.config import Config, load_config
from ilm_ray.config.training import PhaseConfig
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.devices import ATTAINABLE_LINK, GB, GIB, USABLE_MEMORY, Device
from ilm_ray.training.plan.forecast import Forecast, checkpoint_bytes
from ilm_ray.training.plan.planner import LayoutPlan, Ranking, rank, written
from ilm_ray.training.plan.shape import planned_shape
from ilm_ray.training.plan.shardings import sharding_table
from ilm_ray.training.plan.step import OptimizerStep

PRESETS, COUNTS, CONTEXTS, KINDS = ("1_8b", "7b", "20b"), (8, 64, 1024), (4096, 32768, 262144), ("h100", "h200")
COLUMNS = ("tokens/s/device", "MFU", "MFU, causal", "GiB", "micro-batch", "limit", "layout")
PHASE_COLUMNS = ("phase", "tokens", "share", "steps", "batch", "micro-batch", "RoPE base", "GiB", "tokens/s", "hours")

PAGE_HEAD = """# Plans: predictions, never measured

Written by `python jobs/plan.py --table`. For each model, context, number and kind of devices: the layout that is
predicted to be fastest among those that fit. No line of this page was run, and no layout was tried at this scale. The
arithmetic and its sources: `ilm_ray/training/plan/{{planner,timing,memory,traffic,devices,cards}}.py`.

Assumed: {attainable:.0%} of the dense bf16 peak (989 TFLOP/s) without communication where blocks are compiled
("compile"), which all of these are; without it pointwise work and the host's dispatch come on top. {link:.0%} of a
link's rate (in a node of 8: 450 GB/s a device; between nodes: 400 GB/s a node); {memory:.0%} of the memory that CUDA
shows. Batch, precision and loss chunk are the presets'; every sequence is taken as one document. Activations are
computed again only where the layout would not fit otherwise ("recompute"). With `gather` slices are cut so that every
rank attends to as many keys. MFU counts the attention of all keys, "causal" half of it; what is computed twice counts
once. Layouts end with where parameters, gradients and optimizer states live. `limit`: what takes most time beside
computing, if it takes a tenth of the step.

Against InternEvo's measurements (7B, 1,024 A100, 2,048 tokens; nothing was fitted to them but the 59% of peak of its
run on 8): optimizer states in groups of 8 at 16M, 8M and 4M tokens a step: 3,388, 2,804 and 2,085 tokens/s/device are
predicted, 3,625, 2,817 and 2,346 were measured. Optimizer states over all 1,024: 3,855 are predicted for FSDP2, 2,271
were measured with InternEvo, which gives whole tensors to ranks and then reduces and broadcasts for each owner apart.
That alone explains it (`ilm_ray/training/plan/owner_broadcast.py`): 4,148, 3,592, 3,587, 3,567, 3,489, 3,209, 2,823 and
2,325 on 8, 16, ... 1,024 devices, where 4,062, 3,842, 3,752, 3,690, 3,571, 3,209, 2,861 and 2,271 were measured. All
three states split: 3,317 in groups of 8 and 2,227 over all are predicted.
"""


def ranking(config: Config, devices: int, device: Device, context: int) -> Ranking:
    """Raises UserError where the preset's batch is no whole number of sequences."""
    training = config.training
    tokens = config.pretrain.phases[0].batch_tokens
    if tokens % context:
        raise UserError(f"--context {context} must divide the preset's batch of {tokens} tokens; choose another")
    sequences = tokens // context
    step = OptimizerStep(context, sequences, sequences, training.precision, training.loss_chunk)  # any micro-batch
    return rank(planned_shape(config), devices, device, step)


def distinct(plans: Iterable[LayoutPlan], top: int) -> list[LayoutPlan]:
    """The first of those with the same figures: with one micro-batch the gradients' setting, for one, has no effect."""
    by_figures: dict[tuple[float, int], LayoutPlan] = {}
    for plan in plans:
        by_figures.setdefault((plan.tokens_per_second, plan.memory.total), plan)
        if len(by_figures) == top:
            break
    return list(by_figures.values())


def cells(plan: LayoutPlan) -> tuple[str, ...]:
    return (
        f"{plan.tokens_per_second:,.0f}",
        f"{plan.mfu:.1%}",
        f"{plan.mfu_causal:.1%}",
        f"{plan.memory.total / GIB:.1f}",
        f"{plan.step.at_once} x {plan.step.context}",
        plan.limit,
        written(plan.layout),
    )


def figures(plan: LayoutPlan) -> dict[str, Any]:
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


def phase_cells(row: Forecast, phase: PhaseConfig, all_tokens: int) -> tuple[str, ...]:
    """One row of PHASE_COLUMNS."""
    plan = row.plan
    return (
        phase.name,
        f"{row.tokens:,}",
        f"{row.tokens / all_tokens:.1%}",
        f"{phase.steps:,}",
        f"{phase.batch_tokens:,}",
        f"{plan.step.at_once} x {phase.context}",
        "as before" if phase.rope_base is None else f"{phase.rope_base:,.0f}",
        f"{plan.memory.total / GIB:.1f}",
        f"{row.tokens_per_second:,.0f}",
        f"{row.seconds / 3600:,.4g}",
    )


def layout_lines(rows: Sequence[Forecast], device: Device) -> Iterator[str]:
    """The layout and memory of each phase; phases that share theirs stand in one line."""
    names = dict[str, list[str]]()
    for row in rows:
        names.setdefault(f"{written(row.plan.layout)}; {room(row.plan, device)}", []).append(row.name)
    yield from (f"{', '.join(phases)}: {line}." for line, phases in names.items())


def room(plan: LayoutPlan, device: Device) -> str:
    return f"{plan.memory.total / GIB:.1f} of {device.usable_memory / GIB:.1f} GiB"


def data_tokens(path: str | None) -> int | None:
    """Tokens of a file of text in JSON, at four bytes each; None where it is not named or not here."""
    file = None if path is None else Path(located(path))
    return file.stat().st_size // 4 if file is not None and file.is_file() else None


def checkpoint_line(config: Config, shape: Shape) -> str:
    """Size of checkpoints, and the interval at which one is written."""
    training, weights = checkpoint_bytes(shape)
    return (
        f"Checkpoints: {training / GB:,.3g} GB each (weights and two moments in fp32), every "
        f"{config.pretrain.checkpoint_every:,} steps, {config.training.keep_checkpoints} kept; exported weights in "
        f"bf16: {weights / GB:,.3g} GB."
    )


def reasons(layouts: Ranking) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in layouts.left_out.most_common())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """As Markdown, columns aligned."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(3, *(len(row[i]) for row in lines)) for i in range(len(head))]
    for number, row in enumerate(lines):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def page() -> Iterator[str]:
    """docs/plans.md."""
    yield from PAGE_HEAD.format(
        attainable=DEVICES["h100"].attainable, link=ATTAINABLE_LINK, memory=USABLE_MEMORY
    ).splitlines()
    yield from ("", *sharding_table().splitlines())
    for preset in PRESETS:
        config = load_config(preset)
        yield f"\n## {preset}, {config.pretrain.phases[0].batch_tokens:,} tokens a step\n"
        rows = []
        for context in CONTEXTS:
            for count in COUNTS:
                for kind in KINDS:
                    plans = distinct(ranking(config, count, DEVICES[kind], context).plans, 1)
                    shown = cells(plans[0]) if plans else ("none fits", *[""] * (len(COLUMNS) - 1))
                    rows.append((f"{context:,}", f"{count:,} {kind}", *shown))
        yield from table(("context", "devices", *COLUMNS), rows)
