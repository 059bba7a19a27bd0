"""A radar chart as SVG text: several figures of one scale, each on an axis of its own."""

import math
from collections.abc import Sequence

from ilm_ray.report.charts.basic import HALF, cut, svg, text_width
from ilm_ray.report.html.page import Html, number, text

RINGS = 4
MARGIN = 78  # room for the names around the circle
GAP = 14  # between an axis and its name
LINE = 14  # between two lines of a name


def radar_chart(title: str, axes: Sequence[str], values: Sequence[float], top: float, width: int = HALF) -> Html:
    """Axes clockwise from the top, each from 0 in the middle to `top`; one finite value an axis, cut to that range."""
    centre = width / 2
    radius = centre - MARGIN

    def at(axis: int, value: float, beyond: float = 0.0) -> tuple[float, float]:
        angle = 2 * math.pi * axis / len(axes) - math.pi / 2
        reach = radius * min(max(value, 0.0), top) / top + beyond
        return centre + reach * math.cos(angle), centre + reach * math.sin(angle)

    parts = []
    for ring in range(1, RINGS + 1):
        height = top * ring / RINGS
        ring_at = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(i, height) for i in range(len(axes))))
        x, y = at(0, height)
        parts.append(f'<polygon class="grid" fill="none" points="{ring_at}"/>')
        parts.append(f'<text x="{x + 4:.1f}" y="{y + 4:.1f}">{number(height)}</text>')
    for i, name in enumerate(axes):
        (x, y), (name_x, name_y) = at(i, top), at(i, top, GAP)
        parts.append(f'<line class="grid" x1="{centre:.1f}" y1="{centre:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        side = "mid" if abs(name_x - centre) < 1 else ("end" if name_x < centre else "")
        room = width if side == "mid" else name_x if side == "end" else width - name_x
        for line, words in enumerate(_wrapped(name, room - 4)):
            below = name_y + 4 + LINE * line
            parts.append(f'<text class="{side} strong" x="{name_x:.1f}" y="{below:.1f}">{text(words)}</text>')
    corners = [at(i, value) for i, value in enumerate(values)]
    outline = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(corners))
    parts.append(f'<path class="line s1" d="{outline}Z"/>')
    figures = [f"{name}: {number(value)}" for name, value in zip(axes, values, strict=True)]
    for (x, y), figure in zip(corners, figures, strict=True):
        parts.append(f'<circle class="mark f1" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{text(figure)}</title></circle>')
    lowest = max(y for _, y in (at(i, top) for i in range(len(axes))))  # of three axes none points downwards
    return svg(title, "; ".join(figures), width, lowest + MARGIN, parts)


def _wrapped(name: str, room: float) -> list[str]:
    """`name` in as many lines as it needs; a word alone that is too wide is cut."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return [cut(line, room) for line in lines]
