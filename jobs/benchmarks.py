"""Public benchmarks by OpenCompass: `benchmarks.model=FOLDER-or-URL benchmarks.suite=smoke benchmarks.data=FOLDER`."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.evaluator import SetOf, Target, plan_sets, run_sets, scored
from actors.ppo_roles import gpu_share
from actors.rollout import choose_backend
from actors.server import Server, ServerSettings
from ilm_ray.config import Config
from ilm_ray.config.schema import BenchmarksConfig
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.manifest import digest
from ilm_ray.corpus.stage import Context, Result, Stage
from ilm_ray.errors import UserError
from ilm_ray.evaluation.environment import interpreter
from ilm_ray.evaluation.humaneval_x import NAMES, lacking
from ilm_ray.evaluation.suites import SMOKE, Benchmark, suite
from ilm_ray.evaluation.tables import area_means, benchmark_row
from ilm_ray.serving.folder import servable
from jobs._job import run_job

SMOKE_EXAMPLES = 8
SERVER_DEADLINE_S = 900.0
STOP_DEADLINE_S = 60.0
PLAN_DEADLINE_S = 600.0  # the first import of OpenCompass on a busy machine takes minutes


def _settings(config: Config) -> dict[str, Any]:
    chosen = config.benchmarks.model_dump(exclude={"workers", "deadline_s", "environment"})
    return {"benchmarks": chosen | {"context": _context(config)}}


def _sources(config: Config) -> dict[str, str]:
    """Also refuses what cannot run, before anything is written."""
    chosen = config.benchmarks
    interpreter(chosen.environment)
    choose_backend(chosen.backend, "benchmarks.backend")
    found = {"data": _listing(_data_root(chosen))}
    if any(b.name == "HumanEval-X" for b in suite(chosen.suite)):  # a compiler more is another result
        found["languages"] = ", ".join(name for name in NAMES if lacking(name) is None)
    if chosen.model is None:
        raise UserError(
            "benchmarks.model is not set; give the folder of a model (<run>/sft/model) or an endpoint's URL"
        )
    if not _is_url(chosen.model):
        found["model"] = _weights_hash(Path(chosen.model))
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
    present = [work for work in sets if not work.missing]
    if not all(scored(context.folder / "results" / work.file) for work in present):
        with _served(context, target) as ready:
            run_sets(present, ready, python, chosen.workers, chosen.deadline_s)
    sampled = target.examples is not None
    rows = [_row(b, [work for work in sets if work.benchmark == b], context.folder, sampled) for b in benchmarks]
    table = context.folder / "benchmarks.json"
    document = {"model": chosen.model, "suite": chosen.suite, "examples": target.examples, "rows": rows}
    write_text_atomic(table, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    results = sorted((context.folder / "results").rglob("*.json"))
    summary = {"suite": chosen.suite, "scored": sum(r["score"] is not None for r in rows), "benchmarks": len(rows)}
    return Result(
        [table, *results], {"summary": summary | area_means(rows), "scores": {r["key"]: r["score"] for r in rows}}
    )


@contextlib.contextmanager
def _served(context: Context, target: Target) -> Iterator[Target]:
    """The target at the URL that it names, or, where it names a folder, at a server of our own while this lasts."""
    if _is_url(target.url):
        yield target
        return
    folder = servable(Path(target.url), context.folder / "served", context.config.pretrain.precision)
    backend, dtype = (
        choose_backend(context.config.benchmarks.backend, "benchmarks.backend"),
        context.config.pretrain.precision,
    )
    settings = ServerSettings(folder, target.name, backend, context=target.context, dtype=dtype)
    node = ray.get_runtime_context().get_node_id()  # the server answers on loopback, and the folder may be local
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    server = ray.remote(Server).options(num_cpus=1, num_gpus=gpu_share(1), scheduling_strategy=here).remote(settings)
    try:
        url = ray.get(server.start.remote(SERVER_DEADLINE_S), timeout=SERVER_DEADLINE_S + STOP_DEADLINE_S)
        yield replace(target, url=url, tokenizer=str(folder), node=node)
    finally:
        ray.wait([server.stop.remote()], timeout=STOP_DEADLINE_S)
        ray.kill(server)


def _row(benchmark: Benchmark, sets: list[SetOf], folder: Path, sampled: bool) -> dict[str, Any]:
    present = [work for work in sets if not work.missing]
    results = {w.name: json.loads((folder / "results" / w.file).read_text(encoding="utf-8")) for w in present}
    weights = {work.name: work.weight for work in sets}
    missing = {work.name: work.missing for work in sets if work.missing}
    return benchmark_row(benchmark, weights, missing, results, sampled)


def _context(config: Config) -> int:
    return config.benchmarks.context or config.pretrain.phases[-1].context


def _data_root(chosen: BenchmarksConfig) -> Path:
    if chosen.data is None or not (Path(chosen.data) / "data").is_dir():
        raise UserError(
            f"benchmarks.data={chosen.data} must be a folder that holds OpenCompass's `data`; "
            "jobs/benchmark_data.py makes one of what the benchmarks' authors publish"
        )
    return Path(chosen.data)


def _weights_hash(model: Path) -> str:
    folder = model / "model" if (model / "model").is_dir() else model
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"benchmarks.model={model} holds no weights (*.safetensors); give the folder of a model")
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _listing(root: Path) -> str:
    """Names and sizes of the data: benchmarks are published once, their files are not edited in place."""
    files = sorted(path for path in (root / "data").rglob("*") if path.is_file())
    return digest([[str(path.relative_to(root)), path.stat().st_size] for path in files])


STAGE = Stage("benchmarks", (), _settings, _work, _sources)

if __name__ == "__main__":
    run_job("benchmarks", [STAGE])
