"""Report section about the reward model (InternLM2 report section 4.2.1): accuracy, calibration, length."""

from pathlib import Path
from typing import Any

from ilm_ray.report.charts.basic import HALF, Bars, Series, bar_chart, line_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.base import off_notes
from ilm_ray.report.sections.training import broken_note, small
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import as_number, column, is_number, read_rows

_LENGTH = {
    "accuracy_longer_preferred": "right where the longer is preferred",
    "accuracy_shorter_preferred": "right where the shorter is preferred",
    "longer_preferred": "longer is preferred",
    "length_correlation": "correlation of score and length",
    "length_correlation_within_pairs": "the same of differences in pairs",
    "calibration_error": "calibration error",
    "pairs": "pairs",
}


def reward_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Losses, accuracy with and without the condition in the system prompt, calibration, bias for length."""
    rows, broken = read_rows(run_dir / "reward" / "metrics.jsonl")
    manifest = manifests.get("reward")
    if not rows and manifest is None:
        return page.section("reward", "Reward model", [page.note("The reward model has not been trained.")])
    parts = [*broken_note(broken), *off_notes(manifest)]
    if rows:
        names = [("loss", "loss"), ("ranking_loss", "ranking loss"), ("penalty", "log-barrier penalty")]
        lines = [Series(name, column(rows, "step", key)) for key, name in names if any(key in row for row in rows)]
        charts = [page.figure("Losses", line_chart("Losses", lines, "step", width=HALF), wide=False)]
        if any("accuracy" in row for row in rows):
            charts.append(small("Accuracy in training", rows, "step", "accuracy", "step", "pairs ranked right"))
        parts.append(page.row(charts))
    metrics = manifest.metrics if manifest else {}
    if isinstance(accuracy := metrics.get("accuracy"), dict) and accuracy:
        parts += _accuracy(accuracy)
    if isinstance(figures := metrics.get("figures"), dict) and figures:
        parts += _calibration(figures) + _length(figures)
    return page.section("reward", "Reward model", parts)


def _accuracy(accuracy: dict[str, dict[str, float]]) -> list[Html]:
    """{domain: {"conditional", "unconditional"}}: share of held-out pairs ranked right, as bars and table."""
    domains = list(accuracy)
    kinds = list(dict.fromkeys(k for row in accuracy.values() for k, v in row.items() if is_number(v) and v <= 1))
    bars = [Bars(kind, [as_number(accuracy[d].get(kind)) for d in domains]) for kind in kinds]
    caption = "Held-out pairs ranked right, by domain"
    return [page.figure(caption, bar_chart(caption, domains, bars)), page.matrix(accuracy, "domain")]


def _calibration(figures: dict[str, dict[str, Any]]) -> list[Html]:
    """The share of right rankings at each probability that the model gives to the answer that it prefers."""
    lines = [
        Series(
            domain, [(as_number(b["predicted"]), as_number(b["observed"])) for b in kinds["conditional"]["calibration"]]
        )
        for domain, kinds in figures.items()
    ]
    lines.append(Series("as it should be", [(0.5, 0.5), (1.0, 1.0)]))
    caption = "Calibration on held-out pairs"
    chart = line_chart(caption, lines, "predicted probability", "share ranked right")
    return [page.figure(caption, chart, unit="of the answer that the model prefers")]


def _length(figures: dict[str, dict[str, Any]]) -> list[Html]:
    """Whether score follows length: right only where the longer answer is preferred means that it does."""
    rows = {
        domain: {words: kinds["conditional"].get(key) for key, words in _LENGTH.items()}
        for domain, kinds in figures.items()
    }
    return [
        page.subheading("Length and calibration error, held-out pairs with their condition"),
        page.matrix(rows, "domain"),
    ]
