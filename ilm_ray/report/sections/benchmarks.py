"""Report section about public benchmarks: the report's tables, ours beside published ones, single answers below."""

from pathlib import Path
from typing import Any

from ilm_ray.evaluation.tables import area_means, per_cent
from ilm_ray.report.charts.basic import HALF, Bars, bar_chart
from ilm_ray.report.charts.heat import heat_map
from ilm_ray.report.charts.radar import radar_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, as_number, read_json

PROMPT_CHARS = 1500
SHOWN_SETS = 200
OURS = "this model"


def benchmarks_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """One table an area, a radar of the areas, bars beside the published figures, and answers of every set."""
    title = "Benchmarks"
    folder = run_dir / "benchmarks"
    document = read_json(folder / "benchmarks.json")
    if not isinstance(document, dict):
        return page.section("benchmarks", title, [page.note("No public benchmark has been run.")])
    rows: list[Row] = document["rows"]
    cut = "" if document["examples"] is None else f"; the first {document['examples']} examples of each set alone"
    model, name = document["model"], document["suite"]
    parts = [page.paragraph(f"Model {model}, suite {name}{cut}. Per cent unless said otherwise.")]
    areas = list(dict.fromkeys(row["area"] for row in rows))
    parts.append(page.row([*_radar(rows), *_bars(rows)]))
    for area in areas:
        of_area = [row for row in rows if row["area"] == area]
        parts += [page.heading(area.capitalize()), _table(of_area)]
        parts += [chart for row in of_area if row["score"] is not None for chart in _heat(folder, row)]
        parts += [_answers(folder, row) for row in of_area if row["score"] is not None]
    return page.section("benchmarks", title, parts)


def _table(rows: list[Row]) -> Html:
    models = list(dict.fromkeys(model for row in rows for model in row["published"]))
    lines = []
    for row in rows:
        shots = "–" if row["shots"] is None else f"{row['shots']}-shot"
        how = f"{row['kind']}: {shots}, {row['mode']}".replace(" ", "\N{NO-BREAK SPACE}")
        line = [row["benchmark"], how.replace("-", "\N{NON-BREAKING HYPHEN}"), _score(row), row["state"]]
        sets = f"{row['sets_done']} of {row['sets']} sets" if row["sets"] else ""
        cut = f"{row['cut']} prompts cut" if row.get("cut") else ""
        remarks = "; ".join(filter(None, [row["why"], sets, cut, _judged(row)]))
        lines.append([*line, *(row["published"].get(model) for model in models), remarks])
    short = [model.removeprefix("InternLM2-") for model in models]
    caption = "Beside what is published of each InternLM2" if models else ""
    return page.table(["benchmark", "how", OURS, "state", *short, ""], lines, caption)


def _score(row: Row) -> Any:
    best = row.get("of", 100)
    return row["score"] if best == 100 else f"{page.number(row['score'])} of {best}"


def _judged(row: Row) -> str:
    """The judge, its unreadable verdicts, and how often the order of the answers did not matter."""
    judged = row.get("judged")
    if not judged:
        return ""
    parts = [f"judged by {judged['by']}: {judged['verdicts']} verdicts, {judged['unread']} of them could not be read"]
    if judged["pairs"]:
        same = page.share(judged["same"], judged["pairs"])
        parts.append(f"{judged['ties']} ties, {same} of {judged['pairs']} pairs the same in both orders")
    if judged["cut"]:
        parts.append(f"{judged['cut']} questions to the judge cut")
    return ", ".join(parts)


def _radar(rows: list[Row]) -> list[Html]:
    """Mean of the benchmarks of each area, where there are three areas to draw."""
    means = area_means(rows)
    if len(means) < 3:
        return []
    caption = "Mean of each area"
    chart = radar_chart(caption, list(means), list(means.values()), 100.0)
    return [page.figure(caption, chart, wide=False, unit="per cent")]


def _bars(rows: list[Row]) -> list[Html]:
    """Beside the published figures, but only where ours is a figure of the whole benchmark."""
    shown = [row for row in rows if row["score"] is not None]
    if not shown:
        return []
    comparable = [row for row in shown if row["state"] == "done"]
    models = list(dict.fromkeys(model for row in comparable for model in row["published"]))
    bars = [Bars(OURS, [per_cent(row) for row in shown])]
    for model in models:
        bars.append(
            Bars(model, [as_number(row["published"].get(model) if row in comparable else None) for row in shown])
        )
    names = [f"{row['benchmark']} ({row['kind']})" for row in shown]
    caption = "Scores"
    return [page.figure(caption, bar_chart(caption, names, bars, " %", width=HALF), wide=False, unit="per cent")]


def _heat(folder: Path, row: Row) -> list[Html]:
    """Heat maps of the scores by length and depth, one a set, for benchmarks that have such a grid."""
    made = []
    for path in sorted((folder / "results" / row["key"]).glob("*.json"))[:SHOWN_SETS]:
        if grid := read_json(path).get("grid"):
            caption = f"{row['benchmark']}, {path.stem}: facts found by length and depth"
            lengths, depths = [f"{n:,}" for n in grid["lengths"]], [f"{100 * d:.0f} %" for d in grid["depths"]]
            chart = heat_map(caption, lengths, depths, grid["scores"], 100.0, "tokens", "depth", " %")
            made.append(page.figure(caption, chart, unit="per cent"))
    return made


def _answers(folder: Path, row: Row) -> Html:
    """Every set's figure and its first answers."""
    parts: list[Html] = []
    paths = sorted((folder / "results" / row["key"]).glob("*.json"))[:SHOWN_SETS]
    results = [(path.stem, result) for path in paths if "score" in (result := read_json(path))]
    figures = [(name, r["score"], r["metric"], r["examples"], page.duration(r["seconds"])) for name, r in results]
    parts.append(page.table(["set", "score", "metric", "examples", "time"], figures))
    parts += [_sample(name, sample) for name, result in results for sample in result["samples"]]
    return page.folded(f"{row['benchmark']} ({row['kind']}): sets and answers", parts)


def _sample(name: str, sample: dict[str, Any]) -> Html:
    verdict = {True: "right", False: "wrong", None: "scored as a whole"}[sample["correct"]]
    return Html(
        f'<div class="talk"><div class="meta">{page.text(f"{name} · {verdict}")}</div>'
        f"{page.quoted(sample['prompt'], PROMPT_CHARS)}"
        f"{Html(''.join(_turn(turn) for turn in sample.get('turns', [])))}"
        f'<div class="meta">{page.text("answer")}</div>{page.quoted(sample["answer"], PROMPT_CHARS)}'
        f'<div class="meta">{page.text("gold")}</div>{page.quoted(sample["gold"], PROMPT_CHARS)}</div>'
    )


def _turn(turn: dict[str, str]) -> Html:
    """A message of the model or of the interpreter."""
    return Html(f'<div class="meta">{page.text(turn["role"])}</div>{page.quoted(turn["text"], PROMPT_CHARS)}')
