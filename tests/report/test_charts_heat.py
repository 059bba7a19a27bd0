"""A heat map: each value stands in its cell, the stronger the fuller, and nothing of what is shown is markup."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.report.charts.heat import heat_map

VALUES = st.lists(st.lists(st.none() | st.floats(0, 100), min_size=3, max_size=3), min_size=1, max_size=5)


@given(VALUES)
def test_cells_are_ordered_as_the_values_are(values: list[list[float | None]]) -> None:
    made = heat_map("t", ["a", "b", "c"], [f"r{i}" for i in range(len(values))], values, 100.0, "x", "y")
    cells = re.findall(r'<g><title>(.*?)</title><rect [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*fill-opacity="([\d.]+)"', made)
    flat = [value for row in values for value in row]
    assert len(cells) == len(flat)
    shades = [(value, float(cell[3])) for value, cell in zip(flat, cells, strict=True) if value is not None]
    assert all(a[1] <= b[1] for a in shades for b in shades if a[0] <= b[0])
    assert [float(cell[3]) == 0.0 for cell in cells] == [value is None for value in flat]
    assert len({(cell[1], cell[2]) for cell in cells}) == len(flat)


def test_names_are_inert_and_figures_are_printed() -> None:
    made = heat_map("<b>", ["<script>"], ["&"], [[37.5]], 100.0, "<i>", "<u>", " %")
    assert not re.search(r"<(script|b|i|u)>", made) and "37.5 %" in made
    assert re.search(r">37\.5</text>", made)
    assert made.count("<rect") == 1 and heat_map("t", ["a"], ["r"], [[None]], 1.0, "x", "y").count("no value") == 1


@pytest.mark.parametrize("columns", [1, 20])
def test_cells_stay_within_the_picture(columns: int) -> None:
    made = heat_map("t", ["1,024"] * columns, ["100 %"], [[1.0] * columns], 1.0, "x", "y", width=980)
    ends = [float(x) + float(w) for x, w in re.findall(r'<rect [^>]*x="([\d.]+)"[^>]*width="([\d.]+)"', made)]
    assert len(ends) == columns and max(ends) <= 980
