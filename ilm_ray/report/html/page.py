"""The pieces of a self-contained HTML page. Any text that is not `Html` is escaped: crawled and generated text is
hostile.

The page holds no script, no link and nothing from elsewhere, and its Content-Security-Policy forbids all three.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ilm_ray.report.html.style import STYLE


class Html(str):
    """Markup that is safe to put into the page as it is. Only this module and `charts` make it from text."""


# Control characters, lone surrogates and non-characters cannot stand in an HTML file; direction overrides could make a
# line of crawled text reorder what is written around it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def text(value: object) -> Html:
    """`value` as inert page text; characters that cannot be shown become U+FFFD."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNSHOWABLE.sub("\ufffd", str(value).replace("\r\n", "\n")), quote=True))


def number(value: float, digits: int = 4) -> str:
    """A figure for people: 1,234 | 12.3 k | 1.2 M | 0.0123 | 2e-05; an en dash where there is none."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e5, " k")):
        if size >= limit:
            return f"{value / (limit if limit > 1e5 else 1e3):.3g}{unit}".replace("e+03", "000")
    if size >= 1000 or (float(value).is_integer() and size < 1000):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if size >= 1e-3 or value == 0 else f"{value:.2g}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def size(count: float) -> str:
    """Bytes as `512 B`, `3.4 KiB`, `1.2 GiB`."""
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, `4 min 05 s` or `3 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def cell(value: Any) -> str:
    """One value as the text of a table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return number(value) if isinstance(value, (int, float)) else str(value)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Html:
    """A table; numbers stand to the right, and so does a column's header when its first row has a number."""
    body = [list(row) for row in rows]
    right = [bool(body) and _is_figure(body[0][i]) for i in range(len(headers))]
    head = "".join(
        f"<th{_right(r)} scope=col>{text(str(h).replace('_', ' '))}</th>" for h, r in zip(headers, right, strict=True)
    )
    lines = ["".join(_cell(value, i) for i, value in enumerate(row)) for row in body]
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    joined = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return Html(
        f"<div class=scroll><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{joined}</tbody></table></div>"
    )


def figures(values: dict[str, Any], label: str = "") -> Html:
    """A stage's figures as tables: plain ones as name and value, groups of them as one table each."""
    plain = {k: v for k, v in values.items() if not isinstance(v, (dict, list))}
    parts = [table([label or "figure", "value"], plain.items())] if plain else []
    for key, group in values.items():
        if isinstance(group, dict) and group:
            if all(isinstance(v, dict) and v and all(isinstance(w, dict) for w in v.values()) for v in group.values()):
                flat = {f"{outer} / {inner}": row for outer, rows in group.items() for inner, row in rows.items()}
                parts.append(matrix(flat, key))
            elif all(isinstance(v, dict) for v in group.values()):
                parts.append(matrix(group, key))
            else:
                parts.append(figures(group, key))
    return tables(parts)


def matrix(rows: dict[str, dict[str, Any]], label: str) -> Html:
    """`{row: {column: value}}` as a table; deeper values are shown as their JSON-like text."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    return table([label, *columns], [[name, *(row.get(c) for c in columns)] for name, row in rows.items()])


def tiles(items: Iterable[tuple[str, str, str]]) -> Html:
    """Big figures: (label, value, small print)."""
    made = (
        f"<div class=tile><div class=label>{text(label)}</div><div class=value>{text(value)}</div>"
        f"<div class=small>{text(small)}</div></div>"
        for label, value, small in items
    )
    return Html(f'<div class="tiles">{"".join(made)}</div>')


def section(key: str, title: str, parts: Iterable[Html]) -> Html:
    """One section of the page; `key` is its anchor, chosen by us and never by data."""
    return Html(f'<section id="{text(key)}"><h2>{text(title)}</h2>\n{join(parts)}</section>')


def figure(caption: str, picture: Html, wide: bool = True, unit: str = "") -> Html:
    """A chart with its caption and unit; narrow ones stand side by side where there is room."""
    small = f' <span class="unit">{text(unit)}</span>' if unit else ""
    size = "wide" if wide else "half"
    return Html(f'<figure class="{size}"><figcaption>{text(caption)}{small}</figcaption>{picture}</figure>')


def row(parts: Iterable[Html]) -> Html:
    """Narrow figures side by side."""
    return Html(f'<div class="row">{join(parts)}</div>')


def grid(parts: Iterable[Html]) -> Html:
    """Small figures, as many side by side as there is room for."""
    return Html(f'<div class="grid">{join(parts)}</div>')


def tables(parts: Iterable[Html]) -> Html:
    """Tables side by side, each as wide as it needs to be."""
    return Html(f'<div class="tables">{join(parts)}</div>')


def note(words: str) -> Html:
    """A quiet line, such as the reason why something is missing."""
    return Html(f"<p class=note>{text(words)}</p>")


def paragraph(words: str) -> Html:
    """Words of ours or of strangers as <p>, escaped."""
    return Html(f"<p>{text(words)}</p>")


def heading(words: str) -> Html:
    """A title inside a section."""
    return Html(f"<h3>{text(words)}</h3>")


def subheading(words: str) -> Html:
    """Words as <h4>, escaped."""
    return Html(f"<h4>{text(words)}</h4>")


def folded(summary: str, parts: Iterable[Html]) -> Html:
    """Closed until a reader opens it."""
    return Html(f"<details><summary>{text(summary)}</summary>{join(parts)}</details>")


def quoted(words: object, limit: int = 300) -> Html:
    """Crawled or generated text: escaped, isolated from the page's direction, cut to `limit` characters."""
    shown = str(words)
    cut = shown if len(shown) <= limit else shown[:limit] + " …"
    return Html(f'<div class="quoted" dir="auto">{text(cut)}</div>')


def join(parts: Iterable[Html]) -> Html:
    """Pieces of markup below one another."""
    return Html("\n".join(parts))


def page(title: str, body: Html) -> str:
    """The whole document."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


# Text that a table aligns to the right: shares, sizes, short times, "nothing".
_FIGURE = re.compile(r"[-−+]?[\d.,]+( ?(%|s|B|[KMGT]iB))?|–")


def _is_figure(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_FIGURE.fullmatch(value))
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _right(yes: bool) -> str:
    return ' class="n"' if yes else ""


def _cell(value: Any, column: int) -> str:
    tag = "th scope=row" if column == 0 else "td"
    shown = value if isinstance(value, Html) else text(cell(value))
    return f"<{tag}{_right(_is_figure(value))}>{shown}</{tag[:2]}>"
