"""Score a model, or an endpoint, on public benchmarks by OpenCompass (`make eval-env` installs it).

    python jobs/benchmarks.py benchmarks.model=FOLDER_OR_URL benchmarks.suite=smoke benchmarks.data=FOLDER

A benchmark without data is a row that says so. `docs/evaluation.md` lists suites and data.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.config import Config
from ilm_ray.config.evaluation import BenchmarksConfig
from ilm_ray.config.section import result_settings
from ilm_ray.config.serving import ServeConfig
from ilm_ray.evaluation.environment import interpreter
from ilm_ray.evaluation.needle import default_lengths
from ilm_ray.evaluation.programs.humaneval_x import NAMES, lacking
from ilm_ray.evaluation.suites import SMOKE, Benchmark, suite, with_settings
from ilm_ray.evaluation.tables import area_means, benchmark_row
from ilm_ray.run.manifest import digest
from ilm_ray.run.stage import Context, Result, Stage
from ilm_ray.serving.limits import known_context
from jobs.frame.cluster import gpus_of_node
from jobs.frame.stages import run_job

if TYPE_CHECKING:
    from actors.evaluator import Judge, ModelUnderTest, SetOf
    from ilm_ray.evaluation.needle_run import Grid

SMOKE_EXAMPLES = 8
SERVER_DEADLINE_S = 900.0
STOP_DEADLINE_S = 60.0
PLAN_DEADLINE_S = 600.0  # the first import of OpenCompass on a busy machine takes minutes


def _settings(config: Config) -> dict[str, Any]:
    chosen = result_settings(config.benchmarks)
    return {"benchmarks": chosen | {"context": _context(config)}, "seed": config.seed}


def _sources(config: Config) -> dict[str, str]:
    """Also refuses sets that cannot run, before anything is written."""
    from ilm_ray.evaluation.needle_run import read_haystacks
    from ilm_ray.serving.command import require_vllm

    chosen = config.benchmarks
    interpreter(chosen.environment)
    if chosen.model is not None and not _is_url(chosen.model):
        require_vllm()
    _judge(chosen)
    sources = {"data": _listing(_data_root(chosen))}
    if chosen.haystack is not None and any(b.native for b in suite(chosen.suite)):
        _grid(config)
        sources["haystack"] = digest(read_haystacks(Path(chosen.haystack)))
    if any(b.name == "HumanEval-X" for b in suite(chosen.suite)):  # a compiler more is another result
        sources["languages"] = ", ".join(name for name in NAMES if lacking(name) is None)
    if chosen.model is None:
        raise UserError(
            "benchmarks.model is not set; give the folder of a model (<run>/sft/model) or an endpoint's URL"
        )
    if not _is_url(chosen.model):
        sources["model"] = _weights_hash(Path(chosen.model))
    return sources


def _work(context: Context) -> Result:
    from actors.evaluator import ModelUnderTest, SetOf, plan_sets, run_sets, scored
    from ilm_ray.evaluation.needle_run import ServedModel, read_haystacks, run_needles

    config, chosen = context.config, context.config.benchmarks
    python, judge = interpreter(chosen.environment), _judge(chosen)
    benchmarks = with_settings(suite(chosen.suite), judge is not None, chosen.haystack is not None)
    assert chosen.model is not None
    target = ModelUnderTest(
        url=chosen.model,
        name=chosen.served_name,
        tokenizer=chosen.tokenizer,
        context=_context(config),
        data=str(_data_root(chosen).absolute()),
        folder=str(context.folder),
        examples=chosen.examples or (SMOKE_EXAMPLES if chosen.suite == "smoke" else None),
        judge=judge,
    )
    runnable = [b for b in benchmarks if not b.lacks]
    sets = plan_sets([b for b in runnable if not b.native], target, python, PLAN_DEADLINE_S)
    texts = read_haystacks(Path(chosen.haystack)) if chosen.haystack is not None else {}
    sets += [SetOf(b, language, 1.0, []) for b in runnable if b.native for language in texts]
    if chosen.suite == "smoke":
        sets = [work for work in sets if work.name.endswith(SMOKE[work.benchmark.key] or (work.name,))]
    present = [work for work in sets if not work.missing]
    if not all(scored(context.folder / "results" / work.file) for work in present):
        with _served(context, target) as ready:
            for key in {w.benchmark.key for w in present if w.benchmark.native}:
                model = ServedModel(ready.url, ready.name, ready.tokenizer, chosen.deadline_s)
                run_needles(texts, _grid(config), model, context.folder / "needle", context.folder / "results" / key)
            run_sets([w for w in present if not w.benchmark.native], ready, python, chosen.workers, chosen.deadline_s)
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
def _served(context: Context, target: "ModelUnderTest") -> "Iterator[ModelUnderTest]":
    """The target at the URL that it names, or, where it names a folder, at a server of our own while this lasts."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors.server import Server
    from ilm_ray.serving.command import devices_of, server_settings
    from ilm_ray.serving.folder import servable

    if _is_url(target.url):
        yield target
        return
    node = ray.get_runtime_context().get_node_id()  # the server answers on loopback, and the folder may be local
    serve = ServeConfig(context=target.context, dtype=context.config.training.precision)
    devices = devices_of(serve, gpus_of_node(node))
    folder = servable(Path(target.url), context.folder / "served", devices.dtype)
    settings = server_settings(serve, folder, target.name, devices, "benchmarks.context")
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    server = ray.remote(Server).options(num_cpus=1, num_gpus=devices.gpus, scheduling_strategy=here).remote(settings)
    try:
        url = ray.get(server.start.remote(SERVER_DEADLINE_S), timeout=SERVER_DEADLINE_S + STOP_DEADLINE_S)
        yield replace(target, url=url, tokenizer=str(folder), node=node)
    finally:
        ray.wait([server.stop.remote()], timeout=STOP_DEADLINE_S)
        ray.kill(server)


def _row(benchmark: Benchmark, sets: "list[SetOf]", folder: Path, sampled: bool) -> dict[str, Any]:
    present = [work for work in sets if not work.missing]
    results = {w.name: json.loads((folder / "results" / w.file).read_text(encoding="utf-8")) for w in present}
    weights = {work.name: work.weight for work in sets}
    missing = {work.name: work.missing for work in sets if work.missing}
    return benchmark_row(benchmark, weights, missing, results, sampled)


def _grid(config: Config) -> "Grid":
    """The needles' grid, refused where it cannot be asked."""
    from ilm_ray.evaluation.needle_run import LEAST_TOKENS, TRIALS, Grid

    chosen, context = config.benchmarks, _context(config)
    lengths = sorted(set(chosen.needle_lengths or default_lengths(context)))
    if not lengths or lengths[0] < LEAST_TOKENS or lengths[-1] > context:
        raise UserError(
            f"benchmarks.needle_lengths={lengths} must lie between {LEAST_TOKENS} tokens and the context of {context}; "
            "set benchmarks.context to what the model reads"
        )
    return Grid(lengths, chosen.needle_depths, min(TRIALS, chosen.examples or TRIALS), config.seed)


def _context(config: Config) -> int:
    """Tokens of prompt and answer: as set, else those that the model's folder says it was trained on."""
    chosen = config.benchmarks
    known = known_context(Path(chosen.model)) if chosen.model is not None and not _is_url(chosen.model) else None
    return chosen.context or known or config.pretrain.phases[-1].context


def _judge(chosen: BenchmarksConfig) -> "Judge | None":
    """The judge that the settings name. The key stays in the environment: settings are written down."""
    from actors.evaluator import Judge

    if chosen.judge is None:
        return None
    parts = urlsplit(chosen.judge)
    if not _is_url(chosen.judge) or parts.username or parts.password or parts.query:
        raise UserError(
            "benchmarks.judge must be the plain URL of an OpenAI-compatible endpoint, such as http://host:8000; "
            "a key goes into an environment variable that benchmarks.judge_key_env names"
        )
    if chosen.judge_name is None:
        raise UserError("benchmarks.judge_name is not set; give the name by which the judge's endpoint knows its model")
    key = os.environ.get(chosen.judge_key_env) if chosen.judge_key_env else None
    if chosen.judge_key_env and not key:
        raise UserError(f"benchmarks.judge_key_env={chosen.judge_key_env}: no such environment variable is set")
    return Judge(chosen.judge, chosen.judge_name, chosen.judge_key_env, key)


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


STAGE = Stage("benchmarks", (), _settings, _work, _sources, reads=("training", "pretrain", "benchmarks"))

if __name__ == "__main__":
    run_job("benchmarks", [STAGE])
