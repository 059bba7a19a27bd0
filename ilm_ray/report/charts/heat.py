"""A heat map as SVG text: a cell a value, with the figure printed in it, for readers who cannot see the colours."""

import math
from collections.abc import Sequence

from ilm_ray.report.charts.basic import WIDE, cut, svg, text_width
from ilm_ray.report.html.page import Html, number, text

CELL = 26  # height
FAINT, FULL = 0.06, 0.62  # opacity of the least and the greatest value; the figure stays readable on both


def heat_map(
    title: str,
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    top: float,
    x_label: str,
    y_label: str,
    unit: str = "",
    width: int = WIDE,
) -> Html:
    """values: [row][column] from 0 to `top`, None or not finite where there is none: an empty cell with a dash."""
    left = 30 + max(map(text_width, rows))
    above, step = 8, (width - left - 4) / len(columns)
    parts = []
    for r, name in enumerate(rows):
        y = above + r * CELL
        parts.append(f'<text class="end" x="{left - 8:.1f}" y="{y + CELL / 2 + 4:.1f}">{text(name)}</text>')
        for c, column in enumerate(columns):
            parts.append(_cell(left + c * step, y, step, values[r][c], top, f"{column}, {name}", unit))
    bottom = above + len(rows) * CELL
    for c, column in enumerate(columns):
        middle = left + (c + 0.5) * step
        parts.append(f'<text class="mid" x="{middle:.1f}" y="{bottom + 18}">{text(cut(column, step))}</text>')
    turned = f'transform="rotate(-90 12 {(above + bottom) / 2:.1f})"'
    parts.append(f'<text class="mid" x="12" y="{(above + bottom) / 2 + 4:.1f}" {turned}>{text(y_label)}</text>')
    parts.append(f'<text class="end" x="{width - 4}" y="{bottom + 36}">{text(x_label)}</text>')
    known = [v for row in values for v in row if v is not None and math.isfinite(v)]
    extent = f"{len(known)} values from {number(min(known))} to {number(max(known))}{unit}" if known else "no data"
    return svg(title, f"{y_label} over {x_label}: {extent}", width, bottom + 44, parts)


def _cell(x: float, y: float, step: float, value: float | None, top: float, where: str, unit: str) -> str:
    known = value is not None and math.isfinite(value)
    share = min(max(value / top, 0.0), 1.0) if value is not None and known else 0.0
    shown = number(value, 3) if value is not None and known else "–"
    opacity = FAINT + share * (FULL - FAINT) if known else 0.0
    hint = f"{where}: {shown}{unit}" if known else f"{where}: no value"
    return (
        f'<g><title>{text(hint)}</title><rect class="heat-cell" x="{x:.1f}" y="{y:.1f}" width="{step:.1f}" '
        f'height="{CELL}" fill-opacity="{opacity:.3f}"/>'
        f'<text class="mid strong" x="{x + step / 2:.1f}" y="{y + CELL / 2 + 4:.1f}">{text(shown)}</text></g>'
    )
