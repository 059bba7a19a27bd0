"""Report section about online rounds: patterns found, the effect of patches on them, rewards (section 4.2.2)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.report.charts.basic import HALF, Bars, Series, bar_chart, line_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, as_number, column, read_json, read_rows

TEXT_CHARS = 800
SHOWN_SAMPLES = 2


def online_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Per round: patterns that rose in answers and raise the score, with figures and samples, before and after."""
    rounds = read_json(run_dir / "online" / "online.json")
    if not isinstance(rounds, list):
        return page.section("online", "Online rounds", [page.note("No online round has finished.")])
    parts = [_rewards(run_dir, rounds)]
    for row in rounds:
        parts += _round(row)
    return page.section("online", "Online rounds", parts)


def before_after_chart(caption: str, compared: dict[str, Any], names: Sequence[str]) -> Html:
    """Mean scores of normal answers and of those with the pattern, by the reward model before and after the patch.

    compared: as `rounds/N/reward/compared.json` has it; names: patterns to show, in order.
    """
    groups = [f"{name}, {when} the patch" for name in names for when in ("before", "after")]
    cells = [compared[name][when] for name in names for when in ("before", "after")]
    bars = [
        Bars(label, [as_number(c[key]) for c in cells], [as_number(c[f"{key}_se"]) for c in cells])
        for label, key in (("normal answer", "chosen"), ("answer with the pattern", "rejected"))
    ]
    return bar_chart(caption, groups, bars)


def _rewards(run_dir: Path, rounds: list[Row]) -> Html:
    """Reward and KL over the iterations of each round. Rewards of two rounds come from two reward models."""
    folders = [(row["round"], (run_dir / str(row["model"])).parent) for row in rounds]
    logs = [(number, read_rows(folder / "metrics.jsonl")[0]) for number, folder in folders]
    charts = []
    for caption, key, unit in (
        ("Mean reward, by the round's own reward model", "reward", "reward"),
        ("KL(policy ‖ SFT)", "kl", "nats a response"),
    ):
        lines = [Series(f"round {number}", column(rows, "iteration", key)) for number, rows in logs if rows]
        if lines:
            chart = line_chart(caption, lines, "iteration", unit, width=HALF, height=220)
            charts.append(page.figure(caption, chart, wide=False, unit=unit))
    return page.row(charts)


def _round(row: Row) -> list[Html]:
    parts = [page.heading(f"Round {row['round']}")]
    compared = row.get("compared") or {}
    patched = [name for name in compared if name != "people"]
    if patched:
        caption = "Mean score on held-out pairs, before and after the reward model was patched"
        parts.append(page.figure(caption, before_after_chart(caption, compared, patched)))
    if compared:
        lines = [
            (name, c["pairs"], page.share(c["before"]["won"], 1), page.share(c["after"]["won"], 1))
            for name, c in compared.items()
        ]
        parts.append(
            page.table(
                ["held-out pairs", "pairs", "right before", "right after"],
                lines,
                "The reward model of this round against the one before: share of pairs with the better answer ahead",
            )
        )
    words = f"{row['pairs']} pairs of an early and a late answer to one prompt; {row['tested']} traits tested."
    parts.append(page.paragraph(words))
    if judge := row.get("judge"):
        verdict = "it does not follow the score" if judge["drifted"] else "no drift"
        of = f"{judge['asked']} pairs in which the score prefers the late answer"
        likes = f"the early one in {judge['early']}, the late one in {judge['late']}"
        parts.append(page.paragraph(f"Of {of}, the judge prefers {likes}: {verdict}."))
    for kind, title in (("found", "Reward hacking: nobody asked for it"), ("learned", "Learned: people asked for it")):
        if row[kind]:
            parts.append(_patterns(row[kind], title))
    if not row["found"]:
        parts.append(page.note("No pattern rose that pays and that people did not ask for."))
    for pattern in row["found"]:
        samples = [_sample(sample) for sample in pattern["samples"][:SHOWN_SAMPLES]]
        parts.append(page.folded(f"Answers with {_name(pattern)}", samples))
    return parts


def _patterns(patterns: list[Row], title: str) -> Html:
    lines = [
        (
            _name(p),
            p["severity"],
            page.share(p["early_share"], 1),
            page.share(p["late_share"], 1),
            p["z"],
            p["p"],
            p["score_with"],
            p["score_without"],
            page.share(p["explained"], 1),
            f"{p['asked']} of {p['differing']}",
            ", ".join(p["domains"]),
            p.get("patches"),
        )
        for p in patterns
    ]
    headers = ["pattern", "severity", "early", "late", "z", "p corrected", "score with", "score without"]
    return page.table([*headers, "of the score explained", "people for it", "domains", "patches"], lines, title)


def _name(pattern: Row) -> str:
    trait, shown = pattern["trait"]["kind"], pattern["shown"]
    if trait == "phrase":
        return f"“{shown}”"
    bound = as_number(pattern["bound"])
    return f"{trait} above {page.number(bound)}" if math.isfinite(bound) and trait != "refusal" else trait


def _sample(sample: Row) -> Html:
    sides = "".join(
        f'<div><div class="meta">{when} · score {page.text(page.cell(sample[f"{when}_score"]))}</div>'
        f"{page.quoted(sample[when], TEXT_CHARS)}</div>"
        for when in ("early", "late")
    )
    meta = page.text(f"{sample['domain']} · prompt {sample['prompt']}")
    return Html(f'<div class="talk"><div class="meta">{meta}</div><div class="pair">{sides}</div></div>')
