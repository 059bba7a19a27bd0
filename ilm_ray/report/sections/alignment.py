"""Report sections about alignment: PPO and its effects (InternLM2 report sections 4.2.3, 5)."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ilm_ray.report.charts.basic import HALF, Band, Bars, Series, bar_chart, line_chart
from ilm_ray.report.html import page
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.base import off_notes
from ilm_ray.run.journal import read_journal
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.rundata import Row, as_number, column, is_number, read_json, read_rows

SAMPLES = 6
FAILURES = 20
TEXT_CHARS = 1500
STAGE_NAMES = {"sft": "before PPO (SFT)", "ppo": "after PPO"}


def ppo_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Reward, KL, response length and the gap between the rollout engine's and the policy's log-probabilities."""
    rows, broken = read_rows(run_dir / "ppo" / "metrics.jsonl")
    if not rows:
        return page.section("ppo", "PPO", [page.note("PPO has not started.")])
    parts = [page.note(f"{broken} unreadable line(s) of the log are left out.")] if broken else []
    domains = list(dict.fromkeys(d for row in rows for d in row.get("reward_by_domain") or {}))
    rewards = [Series("all", column(rows, "iteration", "reward"))]
    for domain in domains:
        flat = [row | {"value": (row.get("reward_by_domain") or {}).get(domain)} for row in rows]
        rewards.append(Series(domain, column(flat, "iteration", "value")))
    if any("validation_reward" in row for row in rows):
        rewards.append(Series("validation", column(rows, "iteration", "validation_reward")))
    warmup = [row["iteration"] for row in rows if row.get("warmup") and is_number(row.get("iteration"))]
    bands = [Band("critic warm-up", min(warmup), max(warmup))] if warmup else []
    chart = line_chart("Mean reward", rewards, "iteration", "reward", bands)
    parts.append(
        page.figure("Mean reward", chart, unit="shaded: critic warm-up, the policy is frozen" if bands else "")
    )
    parts += _reward_parts(rows)
    pairs = [
        ("KL(policy ‖ reference)", ["kl"], "nats a response"),
        ("Response length", ["response_tokens"], "tokens"),
        ("Share of answers as long as the limit", ["cut_share"], ""),
        ("Losses", ["policy_loss", "value_loss", "pretrain_loss"], ""),
        ("Log-probability gap, rollout against policy", ["logprob_gap"], "nats a token"),
        ("Share of clipped ratios", ["clip_fraction"], ""),
        ("KL(sampler ‖ policy)", ["mismatch_kl"], "nats a token"),
        ("Importance weights: mean, share that was held or cut", ["weight_mean", "corrected_share"], ""),
    ]
    charts = []
    for caption, keys, label in pairs:
        lines = [Series(k.replace("_", " "), column(rows, "iteration", k)) for k in keys if any(k in r for r in rows)]
        if lines:
            chart = line_chart(caption, lines, "iteration", label, width=HALF, height=220)
            charts.append(page.figure(caption, chart, wide=False, unit=label))
    charts += _phase_seconds(rows)
    parts.append(page.row(charts))
    parts += [*off_notes(manifests.get("ppo")), *_recoveries(run_dir)]
    samples, _ = read_rows(run_dir / "ppo" / "samples.jsonl")
    if samples:
        chosen = samples[-SAMPLES:]
        parts.append(page.folded("Rollouts of the last iterations", [_rollout(row) for row in chosen]))
    return page.section("ppo", "PPO", parts)


def _reward_parts(rows: list[Row]) -> list[Html]:
    """Parts of the reward over the run and by domain in its last iteration, and the failures of functions.

    Nothing where the reward model is the only part and all answers have a score.
    """
    told = [row for row in rows if isinstance(row.get("reward_parts"), dict)]
    names = list(dict.fromkeys(name for row in told for name in row["reward_parts"]))
    found = []
    if len(names) > 1 or (names and names != ["model"]):
        lines = []
        for name in names:
            means = [row | {"value": _mean(row["reward_parts"].get(name, {}).values())} for row in told]
            lines.append(Series(name, column(means, "iteration", "value")))
        caption = "Parts of the reward, before their weights"
        found.append(page.figure(caption, line_chart(caption, lines, "iteration", "mean")))
        found += [page.note("By domain, in the last iteration:"), page.matrix(told[-1]["reward_parts"], "part")]
    failed = [(row["iteration"], part, fault.get("answers"), fault.get("first"))
              for row in told for part, fault in (row.get("failures") or {}).items()]  # fmt: skip
    if failed:
        lost = sum(int(row.get("unscored") or 0) for row in told)
        heads = ["iteration", "part", "answers", "first reason"]
        folded = page.folded("Where functions gave no verdict", [page.table(heads, failed[-FAILURES:])])
        found += [page.note(f"Answers without a score, on which nothing was trained: {lost}."), folded]
    return found


def _mean(values: Iterable[Any]) -> float | None:
    known = [value for value in values if is_number(value)]
    return sum(known) / len(known) if known else None


def evaluation_section(run_dir: Path, manifests: dict[str, Manifest]) -> Html:
    """Changes by alignment: reward and KL before and after, bits per byte of every stage, conversations."""
    evaluation = read_json(run_dir / "evaluation" / "evaluation.json")
    if not isinstance(evaluation, dict):
        return page.section("evaluation", "Evaluation", [page.note("The evaluation has not finished.")])
    parts = [page.note(f"The aligned model is {evaluation['model']}.")] if evaluation.get("model") else []
    alignment = evaluation.get("alignment") or {}
    if alignment:
        parts += _before_after(alignment)
    if evaluation.get("by_domain"):
        parts += _by_domain(evaluation["by_domain"])
    bits = evaluation.get("bits_per_byte") or {}
    if bits:
        caption = "Held-out bits per byte after each stage (lower is better)"
        sources = list(dict.fromkeys(s for row in bits.values() for s in row))
        bars = [Bars(stage, [as_number(row.get(s)) for s in sources]) for stage, row in bits.items()]
        parts += [page.figure(caption, bar_chart(caption, sources, bars)), page.matrix(bits, "stage")]
    parts += _by_position(evaluation.get("by_position") or {})
    conversations = evaluation.get("conversations") or []
    if conversations:
        parts.append(Html("<h3>Conversations, before and after PPO</h3>"))
        parts += [_conversation(row) for row in conversations]
    return page.section("evaluation", "Evaluation", parts)


def _by_position(curves: dict[str, Any]) -> list[Html]:
    """Bits per byte over how much text stands before; nothing where no held-out document was long enough."""
    known = {stage: curve for stage, curve in curves.items() if curve.get("edges")}
    if not known:
        return []
    first = next(iter(known.values()))
    lines = [
        Series(stage, [(float(i), as_number(bits)) for i, bits in enumerate(curve["bits_per_byte"])])
        for stage, curve in known.items()
    ]
    names = [page.number(edge) for edge in first["edges"]]
    caption = "Bits per byte by how many tokens stand before, each up to the one named (lower is better)"
    chart = line_chart(caption, lines, "tokens before", "bits per byte", x_names=names)
    return [page.figure(caption, chart, unit=f"{first['windows']} windows of {first['edges'][-1]:,} tokens")]


def reward_gain(alignment: dict[str, Any]) -> tuple[float, float]:
    """Mean reward after PPO less before, and its standard error (the two means are taken as independent)."""
    before, after = alignment.get("sft") or {}, alignment.get("ppo") or {}
    gain = as_number(after.get("reward_mean")) - as_number(before.get("reward_mean"))
    return gain, math.hypot(as_number(after.get("reward_se")), as_number(before.get("reward_se")))


def _before_after(alignment: dict[str, Any]) -> list[Html]:
    models = [name for name in alignment if isinstance(alignment[name], dict)]
    shown = [STAGE_NAMES.get(name, name) for name in models]
    charts = []
    for key, caption in (("reward", "Mean reward"), ("kl", "Mean KL to the SFT model, nats a response")):
        values = [as_number(alignment[name].get(f"{key}_mean")) for name in models]
        errors = [as_number(alignment[name].get(f"{key}_se")) for name in models]
        if any(math.isfinite(v) for v in values):
            chart = bar_chart(caption, shown, [Bars(caption, values, errors)], width=HALF)
            charts.append(page.figure(f"{caption} (± one standard error)", chart, wide=False))
    gain, error = reward_gain(alignment)
    words = []
    if math.isfinite(gain):
        times = f", {gain / error:.1f} standard errors" if math.isfinite(error) and error > 0 else ""
        words = [page.paragraph(f"PPO moved the mean reward on held-out prompts by {gain:+.3f}{times}.")]
    return [*words, page.row(charts), page.matrix({n: alignment[n] for n in models}, "model")]


def _by_domain(by_domain: dict[str, Any]) -> list[Html]:
    """`{domain: {"sft": figures, "ppo": figures}}` or the same the other way round; figures may be one number."""
    if set(by_domain) <= set(STAGE_NAMES):
        turned: dict[str, dict[str, Any]] = {}
        for model, rows in by_domain.items():
            for domain, row in rows.items():
                turned.setdefault(domain, {})[model] = row
        by_domain = turned
    domains = list(by_domain)
    bars, table = [], []
    for model, name in STAGE_NAMES.items():
        cells = [by_domain[d].get(model) for d in domains]
        values = [as_number(c.get("reward_mean")) if isinstance(c, dict) else as_number(c) for c in cells]
        errors = [as_number(c.get("reward_se")) if isinstance(c, dict) else math.nan for c in cells]
        bars.append(Bars(name, values, errors))
        table.append(values)
    if not any(math.isfinite(v) for values in table for v in values):
        return [page.figures({"by_domain": by_domain})]
    caption = "Mean reward by domain"
    lines = [(d, *(values[i] for values in table)) for i, d in enumerate(domains)]
    return [
        page.figure(caption, bar_chart(caption, domains, bars)),
        page.table(["domain", *STAGE_NAMES.values()], lines),
    ]


def _recoveries(run_dir: Path) -> list[Html]:
    """Ranks that were lost on the way and replaced."""
    events = [e for e in read_journal(run_dir / "journal.jsonl") if e["kind"] == "recover" and e.get("stage") == "ppo"]
    if not events:
        return []
    heads = ["iteration", "lost", "restarted", "went on at", "seconds"]
    lines = [
        (e["iteration"], "; ".join(e["lost"]), ", ".join(e["restarted"]), e["goes_on_at"], e["seconds"]) for e in events
    ]
    return [page.subheading("Ranks that were lost and replaced"), page.table(heads, lines)]


def _phase_seconds(rows: list[Row]) -> list[Html]:
    """Mean seconds of each phase of an iteration."""
    timed = [row["seconds"] for row in rows if isinstance(row.get("seconds"), dict)]
    if not timed:
        return []
    names = [k for k in dict.fromkeys(k for row in timed for k in row) if k != "all"]  # their sum is no phase
    means = [sum(as_number(row.get(k, 0.0)) for row in timed) / len(timed) for k in names]
    caption = "Mean seconds of an iteration's phases"
    return [page.figure(caption, bar_chart(caption, names, [Bars("seconds", means)], " s", width=HALF), wide=False)]


def _rollout(row: Row) -> Html:
    meta = f"iteration {page.cell(row.get('iteration'))} · {row.get('domain')} · reward {page.cell(row.get('reward'))}"
    if isinstance(row.get("parts"), dict):
        meta += "".join(f" · {name} {page.cell(value)}" for name, value in row["parts"].items() if name != "model")
    return Html(
        f'<div class="talk">{page.quoted(row.get("prompt", ""), TEXT_CHARS)}<div class="meta">{page.text(meta)}</div>'
        f"{page.quoted(row.get('response', ''), TEXT_CHARS)}</div>"
    )


def _conversation(row: Row) -> Html:
    sides = "".join(
        f'<div><div class="meta">{page.text(STAGE_NAMES[model])} · reward '
        f"{page.text(page.cell(row.get(f'reward_{model}')))}</div>{page.quoted(row.get(model, ''), TEXT_CHARS)}</div>"
        for model in ("sft", "ppo")
    )
    return Html(
        f'<div class="talk"><div class="meta">{page.text(row.get("domain", ""))}</div>'
        f'{page.quoted(row.get("prompt", ""), TEXT_CHARS)}<div class="pair">{sides}</div></div>'
    )
