"""Charts as SVG text: pure functions of their data, without script; colours come from `html/style.py`.

Coordinates are SVG user units (pixels at full width). Values that are not finite leave a gap in a line and no bar.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ilm_ray.report.html.page import Html, number, text

WIDE, HALF = 980, 480
COLOURS = 8
MAX_POINTS = 800  # per line: more than one a pixel only makes the file bigger
MAX_HITS = 80  # points of a line that answer to the mouse

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """A named line: (x, y) with x ascending."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bars:
    """One bar for each group of a bar chart; `errors` are standard errors, drawn as +- one."""

    name: str
    values: Sequence[float]
    errors: Sequence[float] | None = None


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a name, such as a phase of pre-training."""

    name: str
    start: float
    end: float


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, up to rounding
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most about `limit` points: the lowest and the highest of each stretch, so that spikes stay visible."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(2 * len(points) / limit)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [p for p in stretch if math.isfinite(p[1])] or [stretch[0]]
        lowest, highest = min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])
        kept += sorted({lowest, highest})
    return kept


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str = "",
    bands: Sequence[Band] = (),
    x_names: Sequence[str] = (),
    width: int = WIDE,
    height: int = 260,
) -> Html:
    """Lines over one x axis. With `x_names` names stand at the positions 0, 1, 2, ... and points get a mark."""
    known = [p for s in series for p in s.points if math.isfinite(p[1])]
    if not known:
        return _empty(title, width)
    legend, top = _legend([s.name for s in series], width) if len(series) > 1 else ("", 0)
    top += 22 if bands else 10
    left, right, bottom = 56, width - 16, top + height - 60
    y_ticks = ticks(min(y for _, y in known), max(y for _, y in known))
    x_low = min([x for x, _ in known] + [b.start for b in bands])
    x_high = max([x for x, _ in known] + [b.end for b in bands])
    if x_high == x_low:
        x_high = x_low + 1
    pad = 0.12 * (x_high - x_low) if x_names else 0.0  # names need room left and right of their position

    def at_x(x: float) -> float:
        return left + (x - x_low + pad) / (x_high - x_low + 2 * pad) * (right - left)

    def at_y(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    parts = [legend]
    for i, band in enumerate(bands):
        a, b = at_x(band.start), at_x(band.end)
        if i % 2 == 0:
            parts.append(f'<rect class="band" x="{a:.1f}" y="{top}" width="{b - a:.1f}" height="{bottom - top}"/>')
        if text_width(band.name) < b - a:
            parts.append(f'<text class="mid" x="{(a + b) / 2:.1f}" y="{top - 7}">{text(band.name)}</text>')
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{number(tick)}</text>')
    if x_names:
        marks = [(float(i), name) for i, name in enumerate(x_names)]
    else:
        marks = [(t, number(t)) for t in ticks(x_low, x_high, width // 120) if x_low <= t <= x_high]
    for x, name in marks:
        parts.append(f'<text class="mid" x="{at_x(x):.1f}" y="{bottom + 18}">{text(name)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="end" x="{right}" y="{bottom + 36}">{text(x_label)}</text>')
    for i, line in enumerate(series):
        points = thin(line.points)
        parts.append(f'<path class="line {_stroke(i)}" d="{_path(points, at_x, at_y)}"/>')
        every = 1 if x_names else max(1, math.ceil(len(points) / MAX_HITS))
        for x, y in points[::every]:
            if math.isfinite(y):
                kind, radius = (f"mark {_fill(i)}", 4.5) if x_names else ("hit", 6)
                where = f"{line.name}: {number(y)}" + ("" if x_names else f" at {x_label} {number(x)}")
                parts.append(
                    f'<circle class="{kind}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="{radius}">'
                    f"<title>{text(where)}</title></circle>"
                )
    ends = "; ".join(f"{s.name}: {_first_last(s.points)}" for s in series)
    return svg(title, f"{y_label or 'value'} over {x_label}. {ends}", width, bottom + 44, parts)


def bar_chart(title: str, groups: Sequence[str], bars: Sequence[Bars], unit: str = "", width: int = WIDE) -> Html:
    """Horizontal bars, grouped; the value stands behind its bar, the error as a whisker. The axis starts at zero."""
    reach = [
        v + sign * (b.errors[i] if b.errors and math.isfinite(b.errors[i]) else 0.0)
        for b in bars
        for i, v in enumerate(b.values)
        if math.isfinite(v)
        for sign in (-1, 1)
    ]
    if not reach:
        return _empty(title, width)
    legend, top = _legend([b.name for b in bars], width) if len(bars) > 1 else ("", 0)
    low, high = min(0.0, *reach), max(0.0, *reach)
    if low == high:
        high = 1.0
    left = min(0.4 * width, 26 + max(map(text_width, groups)))
    space = 64 + text_width(unit)
    start, end = left + (space if low < 0 else 0), width - space
    thick = 16 if len(bars) == 1 else 13
    gap = 10 if len(bars) == 1 else 14

    def at(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    parts = [legend]
    y = float(top + 6)
    for g, group in enumerate(groups):
        middle = y + thick * len(bars) / 2
        parts.append(
            f'<text class="end strong" x="{left - 10:.1f}" y="{middle + 4:.1f}">{text(cut(group, left - 14))}</text>'
        )
        for i, bar in enumerate(bars):
            value = bar.values[g]
            if math.isfinite(value):
                error = bar.errors[g] if bar.errors and math.isfinite(bar.errors[g]) else 0.0
                parts += _bar(at, value, error, y, thick, i, f"{group}, {bar.name}", unit)
            y += thick
        y += gap
    parts.append(f'<line class="axis" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{y - gap + 6:.1f}"/>')
    description = "; ".join(f"{g}, {b.name}: {number(b.values[i])}{unit}" for i, g in enumerate(groups) for b in bars)
    return svg(title, description, width, y - gap + 10, parts)


def _bar(at: Scale, value: float, error: float, y: float, thick: int, colour: int, name: str, unit: str) -> list[str]:
    a, b = sorted((at(0.0), at(value)))
    middle = y + thick / 2
    shown = f"{number(value, 3)}{unit}" + (f" ± {number(error, 2)}" if error else "")
    parts = [
        f'<rect class="bar {_fill(colour)}" x="{a:.1f}" y="{y + 1:.1f}" width="{max(b - a, 0.5):.1f}" '
        f'height="{thick - 2}" rx="2">'
        f"<title>{text(f'{name}: {shown}')}</title></rect>"
    ]
    if error:
        low, high = at(value - error), at(value + error)
        parts.append(f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    tip = at(value + error) + 6 if value >= 0 else at(value - error) - 6
    side = "strong" if value >= 0 else "strong end"
    parts.append(f'<text class="{side}" x="{tip:.1f}" y="{middle + 4:.1f}">{text(f"{number(value, 3)}{unit}")}</text>')
    return parts


def _path(points: Sequence[tuple[float, float]], at_x: Scale, at_y: Scale) -> str:
    pieces, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            pieces.append(f"{pen}{at_x(x):.1f} {at_y(y):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(pieces)


def _legend(names: Sequence[str], width: int) -> tuple[str, int]:
    parts, x, y = [], 2.0, 13
    for i, name in enumerate(names):
        needed = 18 + text_width(name) + 18
        if x > 2 and x + needed > width:
            x, y = 2.0, y + 19
        parts.append(f'<rect class="{_fill(i)}" x="{x:.0f}" y="{y - 10}" width="11" height="11" rx="3"/>')
        parts.append(f'<text class="strong" x="{x + 17:.0f}" y="{y}">{text(name)}</text>')
        x += needed
    return "".join(parts), y + 8


def svg(title: str, description: str, width: int, height: float, parts: Sequence[str]) -> Html:
    """A drawing in user units. `description` is for readers who cannot see it."""
    body = "\n".join(p for p in parts if p)
    return Html(
        f'<svg role="img" viewBox="0 0 {width} {height:.0f}">'
        f"<title>{text(title)}</title><desc>{text(description)}</desc>\n{body}</svg>"
    )


def _empty(title: str, width: int) -> Html:
    return svg(title, "no data", width, 40, ['<text x="2" y="24">no data</text>'])


def _first_last(points: Sequence[tuple[float, float]]) -> str:
    known = [y for _, y in points if math.isfinite(y)]
    return f"from {number(known[0])} to {number(known[-1])}" if known else "no data"


def _stroke(i: int) -> str:
    return f"s{i % COLOURS + 1}"


def _fill(i: int) -> str:
    return f"f{i % COLOURS + 1}"


def text_width(words: str) -> float:
    """Rough width of 12-pixel text: exact font metrics are the browser's business."""
    return sum(12.0 if ord(c) > 0x2E7F else 6.7 for c in words)


def cut(words: str, room: float) -> str:
    """`words`, or their beginning and an ellipsis, within `room` user units."""
    if text_width(words) <= room:
        return words
    while words and text_width(words + "…") > room:
        words = words[:-1]
    return words + "…"
