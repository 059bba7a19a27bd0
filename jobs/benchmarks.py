"""Public benchmarks by OpenCompass: `benchmarks.model=FOLDER-or-URL benchmarks.suite=smoke benchmarks.data=FOLDER`."""

import hashlib
import json
from pathlib import Path
from typing import Any

from actors.evaluator import SetOf, Target, plan_sets, run_sets
from ilm_ray.config import Config
from ilm_ray.config.schema import BenchmarksConfig
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.manifest import digest
from ilm_ray.corpus.stage import Context, Result, Stage
from ilm_ray.errors import UserError
from ilm_ray.evaluation.environment import interpreter
from ilm_ray.evaluation.suites import SMOKE, Benchmark, suite
from ilm_ray.evaluation.tables import area_means, benchmark_row
from jobs._job import run_job

SMOKE_EXAMPLES = 8
PLAN_DEADLINE_S = 600.0  # the first import of OpenCompass on a busy machine takes minutes


def _settings(config: Config) -> dict[str, Any]:
    chosen = config.benchmarks.model_dump(exclude={"workers", "deadline_s", "environment"})
    return {"benchmarks": chosen | {"context": _context(config)}}


def _sources(config: Config) -> dict[str, str]:
    """Also refuses what cannot run, before anything is written."""
    chosen = config.benchmarks
    interpreter(chosen.environment)
    found = {"data": _listing(_data_root(chosen))}
    if chosen.model is None:
        raise UserError(
            "benchmarks.model is not set; give the folder of a model (<run>/sft/model) or an endpoint's URL"
        )
    if not _is_url(chosen.model):
        weights = Path(chosen.model) / "model.safetensors"
        if not weights.is_file():
            raise UserError(f"benchmarks.model={chosen.model} holds no model.safetensors; give the folder of a model")
        with weights.open("rb") as file:
            found["model"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _work(context: Context) -> Result:
    config, chosen = context.config, context.config.benchmarks
    python, benchmarks = interpreter(chosen.environment), suite(chosen.suite)
    assert chosen.model is not None
    target = Target(
        url=chosen.model,
        name=chosen.served_name,
        tokenizer=chosen.tokenizer,
        context=_context(config),
        data=str(_data_root(chosen).absolute()),
        folder=str(context.folder),
        examples=chosen.examples or (SMOKE_EXAMPLES if chosen.suite == "smoke" else None),
    )
    sets = plan_sets([b for b in benchmarks if not b.lacks], target, python, PLAN_DEADLINE_S)
    if chosen.suite == "smoke":
        sets = [work for work in sets if work.name.endswith(SMOKE[work.benchmark.key] or (work.name,))]
    run_sets([work for work in sets if not work.missing], target, python, chosen.workers, chosen.deadline_s)
    rows = [
        _row(benchmark, [work for work in sets if work.benchmark == benchmark], context.folder)
        for benchmark in benchmarks
    ]
    table = context.folder / "benchmarks.json"
    document = {"model": chosen.model, "suite": chosen.suite, "examples": target.examples, "rows": rows}
    write_text_atomic(table, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    results = sorted((context.folder / "results").rglob("*.json"))
    summary = {"suite": chosen.suite, "scored": sum(r["score"] is not None for r in rows), "benchmarks": len(rows)}
    return Result(
        [table, *results], {"summary": summary | area_means(rows), "scores": {r["key"]: r["score"] for r in rows}}
    )


def _row(benchmark: Benchmark, sets: list[SetOf], folder: Path) -> dict[str, Any]:
    results = {
        work.name: json.loads((folder / "results" / work.file).read_text(encoding="utf-8"))
        for work in sets
        if not work.missing
    }
    weights = {work.name: work.weight for work in sets}
    return benchmark_row(benchmark, weights, {work.name: work.missing for work in sets if work.missing}, results)


def _context(config: Config) -> int:
    return config.benchmarks.context or config.pretrain.phases[-1].context


def _data_root(chosen: BenchmarksConfig) -> Path:
    if chosen.data is None or not (Path(chosen.data) / "data").is_dir():
        raise UserError(
            f"benchmarks.data={chosen.data} must be a folder that holds OpenCompass's `data`; "
            "jobs/benchmark_data.py makes one of what the benchmarks' authors publish"
        )
    return Path(chosen.data)


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _listing(root: Path) -> str:
    """Names and sizes of the data: benchmarks are published once, their files are not edited in place."""
    files = sorted(path for path in (root / "data").rglob("*") if path.is_file())
    return digest([[str(path.relative_to(root)), path.stat().st_size] for path in files])


STAGE = Stage("benchmarks", (), _settings, _work, _sources)

if __name__ == "__main__":
    run_job("benchmarks", [STAGE])
