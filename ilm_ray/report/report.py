"""One self-contained `report.html` for a run: pictures and tables of every stage, readable offline.

The page depends on the run folder alone, so writing it twice gives the same bytes. A stage that has not run yet is
named with a short note, except in a folder of scores alone; crawled and generated text is escaped (see `html/page.py`).
"""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config.road import STAGES
from ilm_ray.config.run_folder import stages_of
from ilm_ray.report.cards import write_card_page
from ilm_ray.report.charts.basic import HALF, Bars, bar_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.alignment import evaluation_section, ppo_section, reward_gain
from ilm_ray.report.sections.base import base_section
from ilm_ray.report.sections.benchmarks import benchmarks_section
from ilm_ray.report.sections.data import code_section, tokens_section
from ilm_ray.report.sections.decontamination import decontamination_section
from ilm_ray.report.sections.longtext import long_text_section
from ilm_ray.report.sections.online import online_section
from ilm_ray.report.sections.reward import reward_section
from ilm_ray.report.sections.text import funnel_steps, text_section
from ilm_ray.report.sections.training import pretrain_section, sft_section
from ilm_ray.run.journal import read_journal
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, as_number, is_number, read_json, read_manifests, read_rows

NAME = "report.html"
# Each with its stage: without that on the run's road, and without its folder, the section is left out.
SECTIONS = {
    base_section: None,
    text_section: "text",
    code_section: "code",
    decontamination_section: "decontamination",
    tokens_section: "tokenizer",
    long_text_section: "long_text",
    pretrain_section: "pretrain",
    sft_section: "sft",
    reward_section: "reward",
    ppo_section: "ppo",
    online_section: "online",
    evaluation_section: "evaluation",
    benchmarks_section: None,
}


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html`, and a page beside each classifier's card; return the report's path.

    Raises UserError where the folder is missing or one of its files is damaged.
    """
    if not run_dir.is_dir():
        raise UserError(f"run folder {run_dir} does not exist; give --run-dir the folder of a run")
    manifests = read_manifests(run_dir)
    journal = read_journal(run_dir / "journal.jsonl")
    configuration = _configuration(run_dir / "config.yaml")
    name = run_dir.resolve().name
    stages = () if _scores_alone(run_dir) else stages_of(run_dir)
    sections = [
        section
        for section, stage in (SECTIONS if stages else {benchmarks_section: None}).items()
        if stage is None or stage in stages or (run_dir / stage).is_dir()
    ]
    body = [
        _header(name, configuration, journal, stages, manifests),
        _tiles(run_dir, manifests),
        *(make(run_dir, manifests) for make in sections),
        _timings(manifests),
        _record(run_dir, journal),
    ]
    for card in sorted((run_dir / "text" / "models").glob("*/card.json")):
        write_card_page(card.parent)
    target = run_dir / NAME
    write_text_atomic(target, page.page(f"{name} – ilm_ray run report", page.join(body)))
    return target


def _scores_alone(run_dir: Path) -> bool:
    """Whether `jobs/benchmarks.py` made the folder, for any model: no stage of the road was or will be here."""
    return (run_dir / "benchmarks").is_dir() and not any((run_dir / stage).is_dir() for stage in STAGES)


def _configuration(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        configuration = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({line}); run the job again to have it rewritten") from None
    return configuration if isinstance(configuration, dict) else {}


def _header(
    name: str, config: dict[str, Any], journal: list[Row], stages: Sequence[str], manifests: dict[str, Manifest]
) -> Html:
    times = [as_number(event.get("time")) for event in journal if is_number(event.get("time"))]
    presets = [event["preset"] for event in journal if "preset" in event]
    facts = [f"preset {presets[-1]}"] if presets else []
    if "seed" in config:
        facts.append(f"seed {config['seed']}")
    if times:
        first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(t)) for t in (min(times), max(times)))
        facts.append(f"{first} UTC" if first == last else f"{first} to {last} UTC")
    if stages:
        facts.append(f"{len(manifests)} of {len(stages)} stages finished")
    done = ('<li class="done">' if stage in manifests else "<li>" for stage in stages)
    road = "".join(f"{mark}{stage}</li>" for mark, stage in zip(done, stages, strict=True))
    return Html(
        f'<header><h1>{page.text(name)}</h1><p>{page.text(" · ".join(facts))}</p><ul class="road">{road}</ul></header>'
    )


def _tiles(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """The run in a few figures, without those that are missing."""
    items: list[tuple[str, str, str]] = []
    funnel = read_json(run_dir / "text" / "funnel.json")
    if funnel:
        steps = funnel_steps(funnel, "documents")
        came, left = steps[0][1], steps[-1][2]
        items.append(("Web documents kept", page.number(left), f"{page.share(left, came)} of {page.number(came)}"))
    rows, _ = read_rows(run_dir / "pretrain" / "metrics.jsonl")
    if rows:
        last = rows[-1]
        items.append(("Pre-training tokens", page.number(as_number(last.get("tokens"))), f"{_steps(last)} steps"))
        first_loss, loss = as_number(rows[0].get("loss")), as_number(last.get("loss"))
        items.append(("Pre-training loss", page.number(loss, 3), f"from {page.number(first_loss, 3)}"))
    evaluations, _ = read_rows(run_dir / "pretrain" / "evaluations.jsonl")
    if evaluations:
        before, after = (_overall(row["bits_per_byte"]) for row in (evaluations[0], evaluations[-1]))
        items.append(
            ("Held-out bits per byte", page.number(after, 3), f"from {page.number(before, 3)} before training")
        )
    if "reward" in manifests and isinstance(accuracy := manifests["reward"].metrics.get("accuracy"), dict):
        rows = [accuracy["all"]] if "all" in accuracy else list(accuracy.values())
        means = [_mean(row.get(kind) for row in rows) for kind in ("conditional", "unconditional")]
        small = f"{page.number(100 * means[1], 3)} % without its condition"
        items.append(("Reward model accuracy", f"{page.number(100 * means[0], 3)} %", small))
    evaluation = read_json(run_dir / "evaluation" / "evaluation.json")
    if isinstance(evaluation, dict) and evaluation.get("alignment"):
        gain, error = reward_gain(evaluation["alignment"])
        items.append(("Reward gained by PPO", f"{gain:+.2f}", f"± {page.number(error, 2)} (standard error)"))
    if manifests:
        slowest = max(manifests.values(), key=lambda m: m.seconds)
        items.append(("Wall time", page.duration(_total(manifests)), f"longest: {slowest.stage}"))
        largest = max(manifests.values(), key=lambda m: m.peak_memory_mb)
        items.append(("Peak memory", f"{largest.peak_memory_mb / 1024:.2f} GiB", f"in {largest.stage}"))
    return page.tiles(items)


def _overall(figures: dict[str, float]) -> float:
    return figures["all"] if "all" in figures else _mean(figures.values())


def _timings(manifests: dict[str, Manifest]) -> Html:
    title = "Time and memory"
    if not manifests:
        return page.section("timings", title, [page.note("No stage has finished yet.")])
    stages = list(manifests)
    seconds = [manifests[s].seconds for s in stages]
    memory = [manifests[s].peak_memory_mb for s in stages]
    charts = [
        page.figure(caption, bar_chart(caption, stages, [Bars(caption, values)], unit, width=HALF), wide=False)
        for caption, values, unit in (("Wall seconds", seconds, " s"), ("Peak memory", memory, " MiB"))
    ]
    rows = [(s, page.duration(t), f"{m:,.0f} MiB") for s, t, m in zip(stages, seconds, memory, strict=True)]
    rows.append(("all", page.duration(sum(seconds)), f"{max(memory):,.0f} MiB"))
    return page.section("timings", title, [page.row(charts), page.table(["stage", "wall time", "peak memory"], rows)])


def _record(run_dir: Path, journal: list[Row]) -> Html:
    """Configuration and journal, folded away."""
    parts = []
    path = run_dir / "config.yaml"
    if path.is_file():
        shown = page.text(path.read_text(encoding="utf-8", errors="replace"))
        parts.append(page.folded("Configuration", [Html(f'<div class="quoted"><pre>{shown}</pre></div>')]))
    if journal:
        start = as_number(journal[0].get("time"))
        lines = [
            (page.duration(max(as_number(event.get("time")) - start, 0.0)), event.get("kind"), _rest(event))
            for event in journal
        ]
        parts.append(page.folded("Journal", [page.table(["after", "event", "what"], lines)]))
    if not parts:
        parts.append(page.note("The run has left no configuration and no journal."))
    return page.section("record", "Record", parts)


def _rest(event: Row) -> str:
    return "  ".join(f"{key}={value}" for key, value in event.items() if key not in ("time", "kind"))


def _steps(row: Row) -> str:
    return page.number(as_number(row.get("global_step", row.get("step"))))


def _mean(values: Iterable[Any]) -> float:
    known = [as_number(value) for value in values]
    return sum(known) / len(known) if known else math.nan


def _total(manifests: dict[str, Manifest]) -> float:
    return sum(m.seconds for m in manifests.values())
