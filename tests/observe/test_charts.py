"""Charts are read back from their SVG and compared with the data they were drawn from."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.observe.charts import Band, Bars, Series, bar_chart, funnel_chart, line_chart, thin, ticks

NUMBERS = st.floats(-1e12, 1e12).map(lambda v: 0.0 if abs(v) < 1e-30 else v)
NS = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def path_points(svg: str) -> list[list[tuple[float, float]]]:
    lines = [e.get("d", "") for e in parse(svg).iter(f"{NS}path")]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d)] for d in lines]


def bars_of(svg: str) -> list[ET.Element]:
    return [e for e in parse(svg).iter(f"{NS}rect") if "bar" in (e.get("class") or "").split()]


@given(NUMBERS, NUMBERS)
def test_ticks_are_even_and_cover_the_range(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    steps = [y - x for x, y in pairwise(found)]
    assert 2 <= len(found) <= 9
    assert found[0] <= low + 1e-6 * steps[0] and found[-1] >= high - 1e-6 * steps[0]
    assert max(steps) - min(steps) <= 1e-3 * min(steps)


@given(st.lists(NUMBERS, min_size=2, max_size=60))
def test_a_line_keeps_the_order_of_its_data(values: list[float]) -> None:
    (drawn,) = path_points(line_chart("t", [Series("a", list(enumerate(values)))], "step"))
    assert len(drawn) == len(values)
    xs = [x for x, _ in drawn]
    assert xs == sorted(xs)
    # A larger value stands higher (smaller y): compare each pair of neighbours, up to the rounding of coordinates.
    for (a, b), ((_, ya), (_, yb)) in zip(pairwise(values), pairwise(drawn), strict=True):
        assert (yb - ya) * (b - a) <= 0 or abs(yb - ya) <= 0.11
    assert min(y for _, y in drawn) >= 0


def test_a_missing_value_leaves_a_gap_and_no_value_says_so() -> None:
    svg = line_chart("t", [Series("a", [(0, 1.0), (1, math.nan), (2, 3.0), (3, math.inf), (4, 2.0)])], "step")
    path = next(parse(svg).iter(f"{NS}path")).get("d", "")
    assert path.count("M") == 3 and "nan" not in svg and "inf" not in svg.replace("info", "")
    assert "no data" in line_chart("t", [Series("a", [(0, math.nan)])], "step")
    assert "no data" in bar_chart("t", ["g"], [Bars("b", [math.nan])])
    assert "no data" in funnel_chart("t", "docs", [("format", 0, 0)])


@given(st.integers(900, 5000), st.data())
def test_thinning_keeps_spikes(count: int, data: st.DataObject) -> None:
    spike = data.draw(st.integers(0, count - 1))
    points = [(float(i), 100.0 if i == spike else math.sin(i)) for i in range(count)]
    kept = thin(points, 200)
    assert len(kept) <= 202 and (float(spike), 100.0) in kept
    assert kept == sorted(kept)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_bars_are_as_long_as_their_values(values: list[float]) -> None:
    svg = bar_chart("t", [f"g{i}" for i in range(len(values))], [Bars("b", values)])
    widths = [float(e.get("width", "")) for e in bars_of(svg)]
    longest = max(range(len(values)), key=lambda i: abs(values[i]))
    for value, width in zip(values, widths, strict=True):
        wanted = widths[longest] * abs(value) / abs(values[longest]) if values[longest] else 0.5
        assert abs(width - max(wanted, 0.5)) < 0.6


def test_error_bars_reach_one_standard_error_each_way() -> None:
    svg = bar_chart("t", ["g"], [Bars("b", [2.0], [0.5])])
    (bar,) = bars_of(svg)
    per_unit = float(bar.get("width", "")) / 2.0
    (whisker,) = [e for e in parse(svg).iter(f"{NS}line") if e.get("class") == "error"]
    assert abs(float(whisker.get("x2", "")) - float(whisker.get("x1", "")) - per_unit) < 0.5


def test_a_funnel_shows_removal_of_the_step_and_retention_of_all() -> None:
    svg = funnel_chart("t", "docs", [("format", 1000, 500), ("clean", 500, 400)])
    widths = [float(e.get("width", "")) for e in bars_of(svg)]
    assert [round(w / widths[0], 3) for w in widths] == [1.0, 0.5, 0.4]
    shown = [e.text for e in parse(svg).iter(f"{NS}text")]
    assert {"−50.0 %", "−20.0 %", "50.0 %", "40.0 %"} <= set(shown)


def test_every_chart_names_and_describes_itself_and_escapes_its_names() -> None:
    name = '<b>"&'
    for svg in (
        line_chart(name, [Series(name, [(0, 1), (1, 2)]), Series("b", [(0, 3)])], name, name, [Band(name, 0, 1)]),
        line_chart(name, [Series(name, [(0, 1), (1, 2)])], "", "", (), [name, name]),
        bar_chart(name, [name], [Bars(name, [1.0])], name),
        funnel_chart(name, name, [(name, 2, 1)]),
    ):
        root = parse(svg)  # well-formed although the names are not
        title, described = root.find(f"{NS}title"), root.find(f"{NS}desc")
        assert title is not None and title.text == name and described is not None and described.text
        assert not list(root.iter(f"{NS}b"))
