"""Documents of the web text section: scores, samples at each rule, cleaned texts, duplicates."""

from collections import Counter

import numpy as np

from ilm_ray.report.charts.basic import HALF, Bars, bar_chart
from ilm_ray.report.charts.text import catch_chart, score_chart
from ilm_ray.report.explain.document import drop_lists
from ilm_ray.report.explain.text_run import NEAR, TextRun
from ilm_ray.report.html import page
from ilm_ray.report.html.diff import line_diff, word_diff
from ilm_ray.report.html.page import Html
from ilm_ray.report.sections.text_samples import FILES, ROWS, SAMPLE_CHARS, Look, RuleView, orders
from ilm_ray.run.rundata import Row

DROP_BYTES = 256 << 20  # of drop lists whose clusters are all counted
_SIZES = ((2, "2"), (3, "3"), (4, "4"), (9, "5 to 9"), (99, "10 to 99"), (999, "100 to 999"))
_LARGEST = "1,000 and more"


def rules_and_samples(run: TextRun, seen: Look) -> list[Html]:
    """Scores against thresholds, samples of documents that each rule removed and of those near its line, cleaned
    texts."""
    if not seen.rules:
        return []
    parts = [
        page.heading("Rules"),
        page.note(
            f"Figures and samples from here on come from {page.number(seen.rows)} rows of {seen.files} of the "
            f"{seen.all_files} files of documents: at most {FILES} files of a pass and outcome, {ROWS} rows of a fate. "
            "Samples are chosen by a hash of their ids. jobs/explain.py tells what another threshold would change, and "
            "why a document, named by its id or URL, stayed or fell."
        ),
    ]
    parts += _score_charts(seen.rules)
    by_step: dict[str, list[RuleView]] = {}
    for view in seen.rules:
        if view.removed.items() or view.borderline():
            by_step.setdefault(view.step, []).append(view)
    for step, views in by_step.items():
        parts.append(page.folded(f"Samples of {step}, rule by rule", [_rule_samples(view) for view in views]))
    if seen.cleaned:
        parts.append(
            page.folded(
                "Before and after cleaning",
                [
                    Html(
                        _meta(row, "struck out: removed; underlined: put in") + line_diff(row["raw_text"], row["text"])
                    )
                    for row in seen.cleaned
                ],
            )
        )
    return parts


def _score_charts(rules: list[RuleView]) -> list[Html]:
    """Small multiples; those of rules that removed nothing are folded away."""
    drawn: dict[bool, list[Html]] = {True: [], False: []}
    for view in rules:
        removed, others = view.removed_scores, view.other_scores
        if view.thresholds and view.name != NEAR and len(removed) + len(others):  # similarities have their own chart
            chart = score_chart(f"Scores of {view.name}", removed, others, sorted(view.thresholds))
            drawn[len(removed) > 0].append(page.figure(f"{view.step} / {view.name}", chart, wide=False))
    if not (drawn[True] or drawn[False]):
        return []
    parts = [
        page.paragraph(
            "Scores of the documents that came into the step, on a logarithmic height. Orange: removed by this rule. "
            "The lines are its thresholds; for some rules they differ by language."
        )
    ]
    if drawn[True]:
        parts.append(page.grid(drawn[True]))
    if drawn[False]:
        parts.append(
            page.folded(f"Scores of {len(drawn[False])} rules that removed nothing", [page.grid(drawn[False])])
        )
    return parts


def duplicates(run: TextRun, metrics: Row, seen: Look) -> list[Html]:
    """Clusters and their sizes, the chance to find a pair, pairs with their differences."""
    sizes, one_in = cluster_sizes(run)
    if not sizes:
        return []
    part = f"Of every {one_in}th cluster: " if one_in > 1 else ""
    members = sum(size * count for size, count in sizes.items())
    clusters = sum(sizes.values())
    groups = [name for _, name in _SIZES] + [_LARGEST]
    counts = Counter(next((name for most, name in _SIZES if size <= most), _LARGEST) for size in sizes.elements())
    last = max(place for place, name in enumerate(groups) if counts[name]) + 1
    values = [float(counts[name]) for name in groups[:last]]
    caption = "Clusters of duplicates, by number of documents"
    charts = [
        page.figure(caption, bar_chart(caption, groups[:last], [Bars("clusters", values)], width=HALF), wide=False)
    ]
    parts = [
        page.heading("Duplicates"),
        page.paragraph(
            f"{part}{page.number(clusters)} clusters hold {page.number(members)} documents; one of each stays, of the "
            f"newest dump, and {page.number(members - clusters)} fall. The largest has {page.number(max(sizes))}."
        ),
    ]
    bands, rows = (metrics.get("dedup", {}).get(name) for name in ("bands", "rows"))
    if isinstance(bands, int) and isinstance(rows, int):
        threshold = run.settings.get("threshold")
        line = float(threshold) if isinstance(threshold, (int, float)) else None

        def caught(similarity: float) -> float:
            return 1.0 - (1.0 - similarity**rows) ** bands

        caption = "Chance to find a pair, and what was found"
        charts.append(page.figure(caption, catch_chart(caption, caught, seen.similarities, line), wide=False))
        at = f" {page.share(caught(line), 1)} of the pairs at exactly {line:g}," if line is not None else ""
        parts.append(
            page.paragraph(
                f"{bands} bands of {rows} hashes find{at} {page.share(caught(0.6), 1)} at 0.6 and "
                f"{page.share(caught(0.8), 1)} at 0.8 (the curve). Pale bars: the estimated similarity of the removed "
                "near-duplicates to the copy that stays."
            )
        )
    parts.append(page.row(charts))
    if seen.pairs:
        shown = [
            Html(_meta(double, _likeness(kept, double)) + word_diff(kept["text"], double["text"]))
            for kept, double in seen.pairs
        ]
        parts.append(
            page.folded(
                f"{len(shown)} pairs: struck out stands in the kept copy alone, underlined in the removed one alone",
                shown,
            )
        )
    return parts


def cluster_sizes(run: TextRun) -> tuple[Counter[int], int]:
    """(size of a cluster, its kept copy included -> number of clusters; one cluster in how many was looked at)."""
    total = sum(path.stat().st_size for path in (run.folder / "dedup").glob("drops-*.npz"))
    one_in = total // DROP_BYTES + 1
    kept_ids = [drops.duplicate_of[orders(drops.duplicate_of) % np.uint64(one_in) == 0] for drops in drop_lists(run)]
    _, removed = np.unique(np.concatenate([*kept_ids, np.zeros(0, np.uint64)]), return_counts=True)
    return Counter((removed + 1).tolist()), one_in


def _rule_samples(view: RuleView) -> Html:
    removed, borderline = view.removed.items(), view.borderline()
    parts = []
    if removed:
        parts.append(page.subheading(f"{len(removed)} removed"))
        parts += [_sample(row) for row in removed]
    if borderline:
        parts.append(page.subheading(f"{len(borderline)} nearest the threshold"))
        parts += [_sample(row) for row in borderline]
    return page.folded(f"{view.name}: {len(removed)} removed, {len(borderline)} borderline", parts)


def _sample(row: Row) -> Html:
    against = "" if row["threshold"] is None else f" (threshold {page.cell(row['threshold'])})"
    fate = f"removed by {row['fell']}" if row["fell"] else "kept"
    return Html(_meta(row, f"{page.cell(row['value'])}{against} · {fate}") + page.quoted(row["text"], SAMPLE_CHARS))


def _meta(row: Row, what: str) -> str:
    about = " · ".join(str(row.get(name) or "–")[:200] for name in ("language", "dump", "id", "url"))
    return f'<div class="meta"><b>{page.text(what)}</b> · {page.text(about)}</div>'


def _likeness(kept: Row, double: Row) -> str:
    alike = double.get("similarity")
    words = f"similarity {page.number(alike)} to" if isinstance(alike, (int, float)) else "near-duplicate of"
    return f"{words} {kept['id']} of {kept['dump']}"
