"""The committed dashboards, rules and page are what the table gives, and every metric of the table is set somewhere."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from cluster.dashboards import SESSION, files, panels
from ilm_ray.run import metrics
from ilm_ray.run.metrics import TABLE, Board

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("path", "text"), [pytest.param(p, t, id=str(p)) for p, t in files()])
def test_committed_files_are_what_the_command_writes(path: Path, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run `python -m cluster.dashboards`"


def test_nothing_else_lies_among_the_dashboards() -> None:
    assert {p.name for p in (ROOT / "cluster" / "grafana").iterdir()} == {f"{board}.json" for board in get_args(Board)}


def test_every_metric_has_a_panel_and_panels_do_not_overlap() -> None:
    shown = ""
    for board in get_args(Board):
        made = json.loads((ROOT / "cluster" / "grafana" / f"{board}.json").read_text())
        assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in made["panels"]}) == len(made["panels"])
        assert len({p["id"] for p in made["panels"]}) == len(made["panels"])
        shown += "".join(p["targets"][0]["expr"] for p in made["panels"])
        assert all(SESSION in panel.query for panel in panels(board))
    assert [row.name for row in TABLE if f"{row.exported}{{" not in shown] == []


def test_every_metric_is_set_somewhere() -> None:
    """By its name in the source of what runs: a row that nothing sets is a promise that nobody keeps."""
    constants = {name for name, value in vars(metrics).items() if isinstance(value, metrics.Metric)}
    assert len(constants) == len(TABLE) == len({row.name for row in TABLE})
    sources = [p.read_text() for folder in ("ilm_ray", "actors", "jobs") for p in (ROOT / folder).rglob("*.py")]
    table = (ROOT / "ilm_ray" / "run" / "metrics.py").read_text()
    others = "\n".join(s for s in sources if s != table)
    of_rows = table[table.index("OF_TRAINING_ROWS") :]
    unset = {n for n in constants if not re.search(rf"(gauge|counter)\((metrics\.)?{n}\)", others + of_rows)}
    assert {n for n in unset if not re.search(rf"\({n}, ", of_rows)} == set()


def test_names_are_what_prometheus_takes() -> None:
    for row in TABLE:
        assert re.fullmatch(r"ilm_[a-z][a-z_]*[a-z]", row.name) and not row.name.endswith("_total")
        assert all(re.fullmatch(r"[a-z_]+", tag) for tag in row.tags)
