"""Charts are read back from their SVG and compared with the data they were drawn from."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.report.charts.basic import Band, Bars, Series, bar_chart, line_chart, thin, ticks
from ilm_ray.report.charts.text import BINS, FlowStep, catch_chart, flow_chart, score_chart

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
    places = ticks(low, high)
    steps = [y - x for x, y in pairwise(places)]
    assert 2 <= len(places) <= 9
    assert places[0] <= low + 1e-6 * steps[0] and places[-1] >= high - 1e-6 * steps[0]
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
    assert "no data" in flow_chart("t", "docs", [FlowStep("format", 0, [])])


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


@given(st.lists(st.lists(st.integers(0, 400), max_size=6), min_size=1, max_size=5), st.integers(1, 500))
def test_a_flow_is_as_wide_as_its_documents(removed: list[list[int]], stay: int) -> None:
    came = stay + sum(map(sum, removed))
    steps, inside = [], came
    for number, counts in enumerate(removed):
        steps.append(FlowStep(f"step{number}", inside, [(f"rule{i}", count) for i, count in enumerate(counts)]))
        inside -= sum(counts)
    root = parse(flow_chart("t", "docs", steps))
    nodes = [float(e.get("width", "")) for e in root.iter(f"{NS}rect") if e.get("class") == "node"]
    stays = [float(e.get("width", "")) for e in root.iter(f"{NS}rect") if e.get("class") == "stay"]
    per_document = nodes[0] / came
    for step, node, left in zip(steps, nodes, stays, strict=False):
        assert abs(node - step.came * per_document) < 0.1 and abs(left - max(step.left * per_document, 0.5)) < 0.1
    assert abs(nodes[-1] - max(stay * per_document, 0.5)) < 0.1
    ribbons = [e.get("d", "") for e in root.iter(f"{NS}path") if e.get("class") == "away"]
    for path, count in zip(ribbons, [c for counts in removed for c in counts], strict=True):
        a, b = (float(x) for x in re.findall(r"[ML]([\d.]+) ", path)[:2])
        assert abs(b - a - count * per_document) < 0.11


SCORES = st.lists(st.floats(0, 1), max_size=80)


@given(SCORES, SCORES, st.lists(st.floats(0, 1), max_size=2))
def test_a_histogram_stands_on_the_right_side_of_its_line(
    removed: list[float], others: list[float], thresholds: list[float]
) -> None:
    if not removed and not others:
        return
    root = parse(score_chart("t", removed, others, thresholds))
    assert len([e for e in root.iter(f"{NS}line") if e.get("class") == "limit"]) == len(thresholds)
    bars = {kind: [e for e in root.iter(f"{NS}rect") if e.get("class") == kind] for kind in ("f1", "f2")}
    assert bool(bars["f2"]) == bool(removed) and len(bars["f1"]) <= BINS
    for e in (e for group in bars.values() for e in group):
        assert 0 < float(e.get("height", "")) <= 84.1 and 8 <= float(e.get("x", "")) <= 304


def test_scores_below_the_line_are_drawn_left_of_it() -> None:
    root = parse(score_chart("t", [0.1, 0.2], [0.6, 0.9], [0.4]))
    line = next(float(e.get("x1", "")) for e in root.iter(f"{NS}line") if e.get("class") == "limit")
    for kind, left in (("f2", True), ("f1", False)):
        for e in root.iter(f"{NS}rect"):
            if e.get("class") == kind:
                assert (float(e.get("x", "")) < line) == left


def test_the_curve_runs_through_its_values() -> None:
    def curve(s: float) -> float:
        return 1 - (1 - s**9) ** 14

    svg = catch_chart("t", curve, [0.75, 0.75, 0.9, 1.0], 0.7)
    (points,) = path_points(svg)
    (x0, y0), (x1, y1) = points[0], points[-1]
    for x, y in points:
        s = (x - x0) / (x1 - x0)
        assert abs((y - y0) / (y1 - y0) - curve(s)) < 0.01
    bars = [e for e in parse(svg).iter(f"{NS}rect") if e.get("class") == "found"]
    assert sorted(float(e.get("height", "")) for e in bars)[-1] == 2 * float(bars[-1].get("height", ""))


def test_every_chart_names_and_describes_itself_and_escapes_its_names() -> None:
    name = '<b>"&'
    for svg in (
        line_chart(name, [Series(name, [(0, 1), (1, 2)]), Series("b", [(0, 3)])], name, name, [Band(name, 0, 1)]),
        line_chart(name, [Series(name, [(0, 1), (1, 2)])], "", "", (), [name, name]),
        bar_chart(name, [name], [Bars(name, [1.0])], name),
        flow_chart(name, name, [FlowStep(name, 2, [(name, 1)])]),
        score_chart(name, [0.1], [0.4, 2000.0], [0.2]),
        catch_chart(name, lambda s: s, [0.5], None),
    ):
        root = parse(svg)  # well-formed although the names are not
        title, described = root.find(f"{NS}title"), root.find(f"{NS}desc")
        assert title is not None and title.text == name and described is not None and described.text
        assert not list(root.iter(f"{NS}b"))
