"""The rows of the report's tables: one a benchmark, from the results of its sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from ilm_ray.evaluation.published import published
from ilm_ray.evaluation.results import LackingResult, SetResult
from ilm_ray.evaluation.suites import Benchmark
from ilm_ray.evaluation.verdicts import judged_whole

BenchmarkRow = dict[str, Any]  # of benchmarks.json, see benchmark_row


def benchmark_row(
    benchmark: Benchmark,
    weights: Mapping[str, float],
    missing: Mapping[str, Sequence[str]],
    results: Mapping[str, SetResult | LackingResult],
    sampled: bool = False,
) -> BenchmarkRow:
    """The row of a benchmark in the report's tables: its score, and the sets behind it.

    weights: of all its sets; missing: absent files of the sets without data; results: of the other sets; sampled: the
    settings left out sets or examples. The row's `state`: "done"; "partial", some sets have no data or no result;
    "sample", as sampled (neither of these two is a figure of the benchmark); "absent", no set has data; "lacking",
    something other than data is missing. The score is None in the last two.
    """
    lacks = sorted({result["lacks"] for result in results.values() if "lacks" in result})
    scored = {name: result for name, result in results.items() if "lacks" not in result}
    row: BenchmarkRow = {
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
        "sets_done": len(scored),
    }
    if benchmark.lacks:
        return row | {"state": "lacking", "why": f"not run: it needs {benchmark.lacks}"}
    absent = sorted({path for paths in missing.values() for path in paths})
    if not scored and lacks:
        return row | {"state": "lacking", "why": f"not run: {'; '.join(lacks)}"}
    if not scored:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        return row | {"state": "absent", "why": f"data absent: put it at {absent[0]}{more}"}
    of_data = f"data of {len(missing)} of {len(weights)} sets absent: put it at {absent[0]}, ..." if missing else ""
    counted = {name: weights[name] * result.get("weight", 1.0) for name, result in scored.items()}
    score = sum(counted[name] * result["score"] for name, result in scored.items()) / sum(counted.values())
    if judged := [result["judged"] for result in scored.values() if "judged" in result]:
        row["judged"] = judged_whole(judged)
    return row | {
        "state": "partial" if missing or lacks else "sample" if sampled else "done",
        "why": "; ".join([*([of_data] if missing else []), *lacks]),
        "score": round(score, 4),
        "of": next(iter(scored.values())).get("of", 100),
        "metric": next(iter(scored.values()))["metric"],
        "examples": sum(result["examples"] for result in scored.values()),
        "cut": sum(result["cut"] for result in scored.values()),
        "seconds": round(sum(result["seconds"] for result in scored.values()), 2),
    }


def area_means(rows: Sequence[BenchmarkRow]) -> dict[str, float]:
    """Mean score, in per cent of the best, of the benchmarks of each area that were scored, whole or in part."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["area"], []).append(per_cent(row))
    return {area: sum(values) / len(values) for area, values in scores.items()}


def per_cent(row: BenchmarkRow) -> float:
    """A row's score in per cent of `of`, the best score there is: 10 for ratings, 100 where the row does not say."""
    return float(row["score"]) * 100 / row.get("of", 100)
