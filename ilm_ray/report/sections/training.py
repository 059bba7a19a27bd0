"""Report sections about training: pre-training, SFT (InternLM2 report sections 3.3, 4.1)."""

import contextlib
import itertools
import math
from pathlib import Path
from typing import Any

import yaml

from ilm_ray.config.training import PretrainConfig, TrainingConfig
from ilm_ray.report.charts.basic import HALF, Band, Bars, Series, bar_chart, line_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.base import off_notes
from ilm_ray.report.sections.health import health_parts
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, as_number, column, is_number, read_rows

RATE_POINTS = 400  # steps at which the planned learning rate is computed


def pretrain_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Loss and learning rate over all phases, bits per byte of each source before and after each phase."""
    rows, broken = read_rows(run_dir / "pretrain" / "metrics.jsonl")
    evaluations, broken_too = read_rows(run_dir / "pretrain" / "evaluations.jsonl")
    if not rows and not evaluations:
        return page.section("pretrain", "Pre-training", [page.note("Pre-training has not started.")])
    x = "global_step" if rows and "global_step" in rows[0] else "step"
    bands = phase_bands(rows, x)
    parts = [*broken_note(broken + broken_too)]
    if rows:
        loss = [Series("loss", column(rows, x, "loss"))]
        parts.append(
            page.figure(
                "Training loss", line_chart("Training loss", loss, "step", "nats a token", bands), unit="nats a token"
            )
        )
        parts.append(
            page.row(
                [
                    _learning_rate(run_dir, manifests, rows, x),
                    small("Tokens per second", rows, x, "tokens_per_second", "step", ""),
                    small("Gradient norm", rows, x, "grad_norm", "step", "before clipping"),
                ]
            )
        )
    if evaluations:
        parts += _bits_per_byte(evaluations)
    drawn = manifests["pretrain"].metrics.get("drawn") if "pretrain" in manifests else None
    if isinstance(drawn, list) and drawn:
        parts += _drawn(drawn)
    parts += health_parts(run_dir / "pretrain")
    return page.section("pretrain", "Pre-training", parts)


def planned_rates(config: PretrainConfig, training: TrainingConfig) -> list[tuple[float, float]]:
    """(step, learning rate) as the settings have it: about RATE_POINTS steps, each phase's first and last among them.

    Steps count from 1, as in the log.
    """
    from ilm_ray.training.pretrain import learning_rate  # with torch, which a report of other stages does not need

    ends = list(itertools.accumulate(phase.steps for phase in config.phases))
    borders = [step for start, end in itertools.pairwise([0, *ends]) for step in (start, end - 1)]
    steps = sorted({*range(0, ends[-1], max(1, ends[-1] // RATE_POINTS)), *borders})
    return [(step + 1.0, learning_rate(config.phases, training, step)) for step in steps]


def _learning_rate(run_dir: Path, manifests: dict[str, Manifest], rows: list[Row], x: str) -> Html:
    """The planned rate of every step under the logged one."""
    lines = [Series("logged", column(rows, x, "lr"))]
    # A run of before, or a folder without its settings: the log alone is drawn.
    with contextlib.suppress(OSError, yaml.YAMLError, ValueError, TypeError, LookupError):
        done, path = manifests.get("pretrain"), run_dir / "config.yaml"
        values: Any = done.settings if done else yaml.safe_load(path.read_text(encoding="utf-8"))
        config = PretrainConfig.model_validate(values["pretrain"])
        lines.insert(0, Series("planned", planned_rates(config, TrainingConfig.model_validate(values["training"]))))
    caption = "Learning rate"
    return page.figure(caption, line_chart(caption, lines, "step", "", width=HALF, height=220), wide=False)


def sft_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Loss and learning rate of supervised fine-tuning."""
    rows, broken = read_rows(run_dir / "sft" / "metrics.jsonl")
    if not rows:
        return page.section("sft", "Supervised fine-tuning", [page.note("Fine-tuning has not started.")])
    return page.section(
        "sft",
        "Supervised fine-tuning",
        [
            *broken_note(broken),
            *off_notes(manifests.get("sft")),
            page.row(
                [
                    small("Loss on answers", rows, "step", "loss", "step", "nats a token"),
                    small("Learning rate", rows, "step", "lr", "step", ""),
                ]
            ),
        ],
    )


def phase_bands(rows: list[Row], x: str) -> list[Band]:
    """One band a phase, from the last step of the one before to its own last step."""
    ends: dict[str, float] = {}
    for row in rows:
        if "phase" in row and is_number(row.get(x)):
            ends[str(row["phase"])] = max(float(row[x]), ends.get(str(row["phase"]), 0.0))
    bands, start = [], 0.0
    for name, end in ends.items():
        bands.append(Band(name, start, end))
        start = end
    return bands


def _bits_per_byte(evaluations: list[Row]) -> list[Html]:
    """Held-out bits per byte as a line a source through the evaluations, and as a table."""
    sources = list(dict.fromkeys(s for row in evaluations for s in row["bits_per_byte"]))
    names = [f"{'before' if row['when'] == 'start' else 'after'} {row['phase']}" for row in evaluations]
    lines = [
        Series(s, [(float(i), as_number(row["bits_per_byte"].get(s))) for i, row in enumerate(evaluations)])
        for s in sources
    ]
    caption = "Held-out bits per byte, before and after each phase (lower is better)"
    # A name needs some 150 units of width: with more evaluations the axis counts them and the table has the names.
    named = names if len(names) <= 6 else ()
    table = []
    for phase in dict.fromkeys(str(row["phase"]) for row in evaluations):
        both = {row["when"]: row["bits_per_byte"] for row in evaluations if str(row["phase"]) == phase}
        for source in sources:
            start, end = (as_number(both.get(when, {}).get(source)) for when in ("start", "end"))
            change = f"{100 * (end / start - 1):+.1f} %" if math.isfinite(end / start if start else math.nan) else "–"
            table.append((phase, source, start, end, change))
    return [
        page.figure(caption, line_chart(caption, lines, "evaluation" if not named else "", "", (), named)),
        page.table(["phase", "source", "before", "after", "change"], table),
    ]


def _drawn(drawn: list[Row]) -> list[Html]:
    """Tokens that each phase drew from each source, and how often it went through the source's documents."""
    phases = list(dict.fromkeys(str(row["phase"]) for row in drawn))
    sources = list(dict.fromkeys(str(row["source"]) for row in drawn))
    tokens = dict.fromkeys(itertools.product(phases, sources), 0.0)
    for row in drawn:
        tokens[str(row["phase"]), str(row["source"])] += as_number(row["tokens"])
    bars = [Bars(source, [tokens[phase, source] for phase in phases]) for source in sources]
    table = [
        (
            row["phase"],
            row["source"],
            row["kind"],
            row["documents"],
            row["tokens"],
            row["passes"],
            ", ".join(f"weight {weight}: {reads:.2f}" for weight, reads in row["reads_by_weight"].items()),
        )
        for row in drawn
    ]
    heads = ["phase", "source", "which", "documents", "tokens drawn", "passes", "times a document is read"]
    caption = "Tokens drawn in each phase"
    return [page.figure(caption, bar_chart(caption, phases, bars)), page.table(heads, table)]


def small(caption: str, rows: list[Row], x: str, y: str, x_label: str, y_label: str) -> Html:
    """A line chart of two columns of a log, half as wide as the page."""
    chart = line_chart(caption, [Series(caption, column(rows, x, y))], x_label, y_label, width=HALF, height=220)
    return page.figure(caption, chart, wide=False, unit=y_label)


def broken_note(lines: int) -> list[Html]:
    """Says how many lines of a log could not be read, if any."""
    return [page.note(f"{lines} unreadable line(s) of the log are left out.")] if lines else []
