"""Logs of a PPO run: JSON Lines with one row an iteration, cut where a run goes back; and its live metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.group import Figures
from ilm_ray.base.files import write_text_atomic
from ilm_ray.run import metrics


def readable(sample: Figures, row: Figures, decode: Callable[[list[int]], str]) -> Figures:
    """A line of `samples.jsonl`: an answer's figures and texts, its iteration and weight version."""
    texts = {key: decode(sample[key]) for key in ("prompt", "response")}
    return {"iteration": row["iteration"], "version": row["version"], **sample, **texts}


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add lines to a log. Raises ValueError for a figure that is not finite."""
    with path.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def lines(path: Path) -> list[str]:
    """Lines of a JSON Lines file. Only a newline ends one: texts inside may hold U+2028 or U+0085."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def keep_before(path: Path, iteration: int) -> None:
    """Drop the rows of `iteration` and later from a log; a last line cut by a crash belongs to those."""
    kept = []
    for line in lines(path) if path.exists() else []:
        try:
            early = json.loads(line)["iteration"] < iteration
        except json.JSONDecodeError:
            continue
        if early:
            kept.append(line + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, "".join(kept))


def export_metrics(row: Figures, iterations: int, stage: str) -> None:
    """Set the live metrics of this process, the driver, from an iteration's row; iterations: of the whole run."""
    metrics.gauge(metrics.TRAIN_STEP).set(row["iteration"] + 1, {"stage": stage})
    metrics.gauge(metrics.TRAIN_STEPS).set(iterations, {"stage": stage})
    for metric, name in metrics.OF_PPO_ROWS:
        metrics.gauge(metric).set(row[name])
    for metric, name in metrics.OF_PPO_CORRECTION:
        if name in row:
            metrics.gauge(metric).set(row[name])
    for metric, name in metrics.OF_PPO_DOMAINS:
        for domain, value in row[name].items():
            metrics.gauge(metric).set(value, {"domain": domain})
    seconds = dict(row["seconds"])
    whole = seconds.pop("all")
    for phase, value in (seconds | {"wait": max(0.0, whole - sum(seconds.values()))}).items():
        metrics.gauge(metrics.PPO_SECONDS).set(value, {"phase": phase})
    metrics.gauge(metrics.PPO_TOKENS_PER_SECOND).set(row["tokens"] / max(whole, 1e-9))
