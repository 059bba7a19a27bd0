"""The rows of the report's tables: one a benchmark, from the results of its sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from ilm_ray.evaluation.published import published
from ilm_ray.evaluation.suites import Benchmark
from ilm_ray.evaluation.verdicts import judged_whole

Row = dict[str, Any]


def benchmark_row(
    benchmark: Benchmark,
    weights: Mapping[str, float],
    missing: Mapping[str, Sequence[str]],
    results: Mapping[str, Row],
    sampled: bool = False,
) -> Row:
    """One benchmark's figure and what it rests on.

    weights: of all its sets; missing: files of those whose data is absent; results: of the others, {score, metric,
    examples, cut, seconds}, scores in per cent unless `of` says what the best is, of judged ones also {judged} and
    how much each set counts besides (`weight`), or {lacks} where a node lacked what the set needs; sampled: they rest
    on some of the sets or examples by choice. `state`: done; partial, where the data of some sets is absent or their
    node lacked something, and sample, where sampled: both are no figures of the benchmark; absent, with the score None,
    where the data of all sets is; lacking, where something else than data is.
    """
    lacks = sorted({row["lacks"] for row in results.values() if "lacks" in row})
    results = {name: row for name, row in results.items() if "lacks" not in row}
    row: Row = {
        "benchmark": benchmark.name,
        "key": benchmark.key,
        "area": benchmark.area,
        "kind": benchmark.kind,
        "mode": benchmark.mode,
        "shots": benchmark.shots,
        "config": benchmark.config,
        "published": published(benchmark.name, benchmark.kind),
        "score": None,
        "sets": len(weights),
        "sets_done": len(results),
    }
    if benchmark.lacks:
        return row | {"state": "lacking", "why": f"not run: it needs {benchmark.lacks}"}
    absent = sorted({path for paths in missing.values() for path in paths})
    if not results and lacks:
        return row | {"state": "lacking", "why": f"not run: {'; '.join(lacks)}"}
    if not results:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        return row | {"state": "absent", "why": f"data absent: put it at {absent[0]}{more}"}
    of_data = f"data of {len(missing)} of {len(weights)} sets absent: put it at {absent[0]}, ..." if missing else ""
    counted = {name: weights[name] * result.get("weight", 1.0) for name, result in results.items()}
    score = sum(counted[name] * result["score"] for name, result in results.items()) / sum(counted.values())
    if judged := [result["judged"] for result in results.values() if "judged" in result]:
        row["judged"] = judged_whole(judged)
    return row | {
        "state": "partial" if missing or lacks else "sample" if sampled else "done",
        "why": "; ".join([*([of_data] if missing else []), *lacks]),
        "score": round(score, 4),
        "of": next(iter(results.values())).get("of", 100),
        "metric": next(iter(results.values()))["metric"],
        "examples": sum(result["examples"] for result in results.values()),
        "cut": sum(result["cut"] for result in results.values()),
        "seconds": round(sum(result["seconds"] for result in results.values()), 2),
    }


def area_means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean score, in per cent of the best, of the benchmarks of each area that were scored, whole or in part."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["area"], []).append(per_cent(row))
    return {area: sum(values) / len(values) for area, values in scores.items()}


def per_cent(row: Row) -> float:
    """A row's score in per cent of the best there is: ratings are out of ten."""
    return float(row["score"]) * 100 / row.get("of", 100)
