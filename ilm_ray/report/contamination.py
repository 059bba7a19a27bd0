"""The page of jobs/contamination.py: differences of losses with their intervals."""

from ilm_ray.evaluation.contamination import SETS, Contamination, Delta
from ilm_ray.report.charts.basic import Bars, bar_chart
from ilm_ray.report.html.page import figure, join, page, paragraph, section, table


def contamination_page(results: dict[str, Contamination]) -> str:
    """An HTML page of models' figures: bars of both differences with their intervals, and a table."""
    names = list(results)
    bars = [
        Bars(
            label, [getattr(r, key).value for r in results.values()], [_half(getattr(r, key)) for r in results.values()]
        )
        for label, key in (("delta1: test - reference", "delta1"), ("delta2: test - train", "delta2"))
    ]
    rows = [
        [
            name,
            *(r.losses[s] for s in SETS),
            *(f"{d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}]" for d in (r.delta1, r.delta2)),
            "leaked" if r.leaked else "no sign",
            "over-fitted" if r.overfitted else "no sign",
        ]
        for name, r in results.items()
    ]
    headers = ["model", *(f"loss on {s}" for s in SETS), "delta1", "delta2", "test set", "training set"]
    explanation = (
        "Losses are nats a token, a mean over items. A test set has leaked where all of delta1's interval is below "
        "zero; the training set was learned by heart where all of delta2's is above. Whiskers: half the 95% interval."
    )
    parts = [
        paragraph(explanation),
        figure("Differences of losses", bar_chart("Differences of losses", names, bars, " nats")),
        table(headers, rows),
    ]
    return page("Contamination", join([section("contamination", "Contamination", parts)]))


def _half(delta: Delta) -> float:
    return (delta.high - delta.low) / 2
