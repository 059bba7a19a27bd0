"""Charts of the text stage: the flow of documents, scores against their threshold, similarity against the S-curve."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ilm_ray.report.charts.basic import HALF, WIDE, cut, svg, text_width, ticks
from ilm_ray.report.html.page import Html, number, share, text

SMALL = 312
BINS = 40
_SLOT = 19  # height of a label's line


@dataclass(frozen=True)
class FlowStep:
    """One step of the flow: the count that came in, and the counts that its rules removed, largest first."""

    name: str
    came: float
    removed: Sequence[tuple[str, float]]

    @property
    def left(self) -> float:
        return self.came - sum(count for _, count in self.removed)


def flow_chart(title: str, what: str, steps: Sequence[FlowStep], width: int = WIDE) -> Html:
    """A Sankey diagram: documents flow from top to bottom, each step sends the removed ones to the right.

    `what` is the name of the documents. All widths are on the scale of the first step's input.
    """
    if not steps or steps[0].came <= 0:
        return svg(title, "no data", width, 40, ['<text x="2" y="24">no data</text>'])
    everything = steps[0].came
    left, full, labels = 140.0, 0.4 * width, 0.64 * width
    parts: list[str] = []
    y = 26.0

    def wide(count: float) -> float:
        return count / everything * full

    parts.append(f'<text class="strong" x="{left}" y="16">{number(everything)} {text(what)} come in</text>')
    for step in steps:
        slots = [max(wide(count), _SLOT) for _, count in step.removed]
        height = max(sum(slots) + 16, 54.0)
        parts.append(f'<rect class="node" x="{left}" y="{y:.1f}" width="{wide(step.came):.1f}" height="7"/>')
        parts.append(
            f'<text class="end strong" x="{left - 14}" y="{y + 9:.1f}">{text(step.name)}</text>'
            f'<text class="end" x="{left - 14}" y="{y + 25:.1f}">{number(step.left)} left, '
            f"{share(step.left, everything)}</text>"
        )
        edge, slot = left + wide(step.came), y + 12
        top = y + 7
        for (rule, count), room in zip(step.removed, slots, strict=True):
            thick = wide(count)
            at = slot + (room - thick) / 2
            hint = f"{step.name}: {rule} removes {number(count)} of {number(step.came)}"
            parts.append(
                f'<path class="away" d="{_ribbon(edge - thick, edge, top, labels - 12, at, at + max(thick, 0.8))}">'
                f"<title>{text(hint)}</title></path>"
            )
            words = f"{number(count)} · {share(count, step.came)}"
            parts.append(
                f'<text class="strong" x="{labels:.1f}" y="{slot + room / 2 + 4:.1f}">'
                f"{text(cut(rule, width - labels - text_width(words) - 16))}</text>"
                f'<text class="end" x="{width - 4}" y="{slot + room / 2 + 4:.1f}">{text(words)}</text>'
            )
            edge, slot = edge - thick, slot + room
        stay = wide(step.left)
        parts.append(
            f'<rect class="stay" x="{left}" y="{top:.1f}" width="{max(stay, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{text(f'{step.name} leaves {number(step.left)} {what}')}</title></rect>"
        )
        y += 7 + height
    last = steps[-1].left
    parts.append(f'<rect class="node" x="{left}" y="{y:.1f}" width="{max(wide(last), 0.5):.1f}" height="7"/>')
    parts.append(
        f'<text class="strong" x="{left}" y="{y + 24:.1f}">{number(last)} {text(what)} stay, '
        f"{share(last, everything)} of all</text>"
    )
    description = "; ".join(
        f"{s.name} leaves {number(s.left)} of {number(s.came)}, removing "
        + (", ".join(f"{number(count)} by {rule}" for rule, count in s.removed) or "none")
        for s in steps
    )
    return svg(title, description, width, y + 32, parts)


def score_chart(
    title: str, removed: Sequence[float], others: Sequence[float], thresholds: Sequence[float], width: int = SMALL
) -> Html:
    """Histogram of a rule's scores, those of removed documents on top, a line at each threshold. Heights are
    logarithmic: most documents are far from any line."""
    low, high = _range(removed, others, thresholds)
    wide = low >= 0 and high > 1000  # counts of characters or words: a logarithmic axis
    if wide:
        low, high = _log(low), _log(high)
        removed, others = ([_log(value) for value in values] for values in (removed, others))
    counts = [_counts(values, low, high) for values in (others, removed)]
    tallest = math.log1p(max(map(sum, zip(*counts, strict=True))))
    left, right, top, bottom = 8.0, width - 8.0, 8.0, 92.0

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    thick = (right - left) / BINS
    for place, (stays, falls) in enumerate(zip(*counts, strict=True)):
        whole = math.log1p(stays + falls) / tallest * (bottom - top)
        part = whole * falls / (stays + falls) if falls else 0.0
        x = left + place * thick
        bars = (("f1", stays, bottom - whole + part, whole - part), ("f2", falls, bottom - whole, part))
        for kind, count, y, height in bars:
            if count:  # a few among many are still a line
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{thick - 0.6:.1f}" '
                    f'height="{max(height, 0.1):.1f}"/>'
                )
    for threshold in thresholds:
        x = at(_log(threshold) if wide else threshold)
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom}"/>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for tick in map(float, range(20)) if wide else ticks(low, high, 4):
        if low <= tick <= high:
            side = "mid" if left + 12 < at(tick) < right - 12 else ("end" if at(tick) > width / 2 else "")
            shown = number(10**tick if wide else tick)
            parts.append(f'<text class="{side}" x="{at(tick):.1f}" y="{bottom + 16}">{shown}</text>')
    description = (
        f"{len(removed)} of {len(removed) + len(others)} scores seen are of documents that the rule removed; "
        f"thresholds: {', '.join(map(number, thresholds)) or 'none'}"
    )
    return svg(title, description, width, bottom + 22, parts)


def catch_chart(
    title: str, curve: Callable[[float], float], similarities: Sequence[float], threshold: float | None
) -> Html:
    """The chance that banding finds a pair of a given similarity, over a histogram of the similarities of pairs."""
    width, left, right, top, bottom = HALF, 44.0, HALF - 16.0, 12.0, 190.0

    def at(x: float, y: float) -> str:
        return f"{left + x * (right - left):.1f} {bottom - y * (bottom - top):.1f}"

    parts = []
    counts = [0] * BINS
    for value in similarities:
        counts[min(int(value * BINS), BINS - 1)] += 1
    thick = (right - left) / BINS
    for place, count in enumerate(counts):
        if count:
            x, height = left + place * thick, count / max(counts) * (bottom - top)
            parts.append(
                f'<rect class="found" x="{x:.1f}" y="{bottom - height:.1f}" width="{thick - 0.6:.1f}" '
                f'height="{height:.1f}"><title>{count} at {place / BINS:g} to {(place + 1) / BINS:g}</title></rect>'
            )
    for share_ in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share_ * (bottom - top)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{share_:g}</text>')
        parts.append(f'<text class="mid" x="{left + share_ * (right - left):.1f}" y="{bottom + 18}">{share_:g}</text>')
    points = [i / 100 for i in range(101)]
    parts.append(f'<path class="line s2" d="M{"L".join(at(x, curve(x)) for x in points)}"/>')
    if threshold is not None:
        x = left + threshold * (right - left)
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
    parts.append(f'<text class="end" x="{right}" y="{bottom + 36}">Jaccard similarity of a pair</text>')
    chances = ", ".join(f"{curve(x):.3f} at {x:g}" for x in (0.5, 0.6, 0.7, 0.8, 0.9))
    return svg(title, f"chance to be found: {chances}; {len(similarities)} similarities", width, bottom + 44, parts)


def _ribbon(a: float, b: float, y: float, x: float, top: float, bottom: float) -> str:
    """From the stretch [a, b] at height y down and to the right, into the stretch [top, bottom] at x."""
    bend = b + 0.35 * (x - b)
    return (
        f"M{a:.1f} {y:.1f}L{b:.1f} {y:.1f}C{b:.1f} {top:.1f} {b:.1f} {top:.1f} {bend:.1f} {top:.1f}L{x:.1f} {top:.1f}"
        f"L{x:.1f} {bottom:.1f}L{bend:.1f} {bottom:.1f}C{a:.1f} {bottom:.1f} {a:.1f} {bottom:.1f} {a:.1f} {y:.1f}Z"
    )


def _range(removed: Sequence[float], others: Sequence[float], thresholds: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the 99.5th percentile of the scores, thresholds inside: outliers would hide the rest."""
    values = sorted([*removed, *others])
    ends = [values[0], values[min(int(0.995 * len(values)), len(values) - 1)]] if values else [0.0, 1.0]
    low, high = min([*ends, *thresholds]), max([*ends, *thresholds])
    pad = 0.04 * (high - low) or abs(low) * 0.1 or 1.0
    return (max(low - pad, 0.0) if low >= 0 else low - pad), high + pad


def _log(value: float) -> float:
    return math.log10(max(value, 1.0))


def _counts(values: Sequence[float], low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[min(max(int((value - low) / (high - low) * BINS), 0), BINS - 1)] += 1
    return counts
