"""Write the files that derive from the table of metrics: `python -m cluster.dashboards`.

- `cluster/grafana/<board>.json`: a dashboard for each board, a panel for each metric, and panels of Ray's own metrics;
- `cluster/alerts.yml`: rules for Prometheus;
- `docs/metrics.md`: the table for people.

A test compares the committed files with the output of this script, so none of them can drift from the table.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from cluster.alerts import GROUPS
from ilm_ray.run.metrics import TABLE, Board, Metric

ROOT = Path(__file__).parents[1]
SESSION = 'SessionName=~"$session"'  # Ray's own label: one value for each life of a cluster
RATE_WINDOW = "[5m]"
TITLES: dict[Board, str] = {"data": "data", "training": "training", "rlhf": "RLHF", "health": "health"}
# Grafana's names of our units; what it has no name for is shown as a plain number.
UNITS = {"share": "percentunit", "tokens/s": "short", "s": "s", "bytes": "bytes"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2


@dataclass(frozen=True)
class Panel:
    """query: PromQL with `$session` in it; legend: labels that tell its lines apart."""

    title: str
    query: str
    legend: tuple[str, ...]
    unit: str
    description: str


# Shares of documents, by step: what no single metric says.
DERIVED: dict[Board, tuple[Panel, ...]] = {
    "data": (
        Panel(
            "share removed",
            f'sum by (stage) (ray_ilm_documents_total{{outcome="removed",{SESSION}}})'
            f" / sum by (stage) (ray_ilm_documents_total{{{SESSION}}})",
            ("stage",),
            "share",
            "removed documents of all that came into a step",
        ),
    ),
    "training": (
        Panel(
            "progress",
            f"max by (stage) (ray_ilm_train_step{{{SESSION}}}) / max by (stage) (ray_ilm_train_steps{{{SESSION}}})",
            ("stage",),
            "share",
            "steps done of all that the stage has",
        ),
    ),
    "rlhf": (),
    # Ray's own metrics of its nodes.
    "health": (
        Panel(
            "memory of nodes",
            f"max by (ip) (ray_node_mem_used{{{SESSION}}} / ray_node_mem_total{{{SESSION}}})",
            ("ip",),
            "share",
            "used memory; Ray kills tasks above 95%",
        ),
        Panel(
            "CPU of nodes",
            f"max by (ip) (ray_node_cpu_utilization{{{SESSION}}}) / 100",
            ("ip",),
            "share",
            "CPU use, all cores together",
        ),
        Panel(
            "disk of nodes",
            f"max by (ip) (ray_node_disk_utilization_percentage{{{SESSION}}}) / 100",
            ("ip",),
            "share",
            "used share of the disk that Ray spills to",
        ),
        Panel(
            "object store",
            f"sum by (Location) (ray_object_store_memory{{{SESSION}}})",
            ("Location",),
            "bytes",
            "objects by where they lie: in memory, spilled to disk",
        ),
    ),
}


def panel_of(metric: Metric) -> Panel:
    """A counter's growth per second, or a gauge's value: the highest where several processes report it."""
    by = f"by ({', '.join(metric.tags)}) " if metric.tags else ""
    selector = f"{metric.exported}{{{SESSION}}}"
    name = metric.name.removeprefix("ilm_").replace("_", " ")
    if metric.kind == "counter":
        return Panel(
            f"{name} per second",
            f"sum {by}(rate({selector}{RATE_WINDOW}))",
            metric.tags,
            f"{metric.unit}/s",
            f"{metric.description}, a second",
        )
    return Panel(name, f"max {by}({selector})", metric.tags, metric.unit, metric.description)


def panels(board: Board) -> list[Panel]:
    """All panels of a board in their order."""
    return [panel_of(row) for row in TABLE if row.board == board] + list(DERIVED[board])


def dashboard(board: Board) -> dict[str, Any]:
    """A Grafana dashboard (schema 39). The data source is chosen in Grafana; nothing but queries goes there."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    shown = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "description": f"{panel.description} [{panel.unit}]",
            "datasource": source,
            "gridPos": {
                "x": WIDTH * (number % COLUMNS),
                "y": HEIGHT * (number // COLUMNS),
                "w": WIDTH,
                "h": HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": UNITS.get(panel.unit, "none")}, "overrides": []},
            "targets": [
                {
                    "refId": "A",
                    "datasource": source,
                    "expr": panel.query,
                    "legendFormat": " ".join(f"{{{{{tag}}}}}" for tag in panel.legend) or panel.title,
                }
            ],
        }
        for number, panel in enumerate(panels(board))
    ]
    return {
        "uid": f"ilm-ray-{board}",
        "title": f"ilm_ray: {TITLES[board]}",
        "tags": ["ilm_ray"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "session",
                    "type": "query",
                    "datasource": source,
                    "query": "label_values(ray_node_mem_used, SessionName)",
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": shown,
    }


def metrics_page() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Written by `python -m cluster.dashboards` from the table in `ilm_ray/run/metrics.py`. Every node of the",
        "cluster exports them on its metrics port; `cluster/prometheus.yml` scrapes them, `cluster/grafana/` shows",
        "them, `cluster/alerts.yml` warns.",
        "",
    ]
    for board, title in TITLES.items():
        lines += [
            f"## {title[0].upper()}{title[1:]}",
            "",
            "| metric | kind | unit | tags | what |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{row.exported}` | {row.kind} | {row.unit} | {', '.join(row.tags)} | "
            f"{row.description.replace('|', chr(92) + '|')} |"
            for row in TABLE
            if row.board == board
        ]
        lines.append("")
    lines += ["## Alerts", "", "| alert | severity | says |", "|---|---|---|"]
    lines += [
        f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['annotations']['description']} |"
        for group in GROUPS
        for rule in group["rules"]
    ]
    return "\n".join(lines) + "\n"


def files() -> Iterator[tuple[Path, str]]:
    """Path from the repository's root, and text, of every file that is written."""
    for board in get_args(Board):
        yield Path("cluster", "grafana", f"{board}.json"), json.dumps(dashboard(board), indent=1) + "\n"
    head = "# Written by `python -m cluster.dashboards`; the rules are in cluster/alerts.py.\n"
    yield Path("cluster", "alerts.yml"), head + yaml.safe_dump({"groups": list(GROUPS)}, sort_keys=False, width=120)
    yield Path("docs", "metrics.md"), metrics_page()


def main() -> None:
    for path, text in files():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
