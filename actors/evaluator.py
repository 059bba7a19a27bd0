"""Warm OpenCompass interpreters: one import for hundreds of sets, where OpenCompass itself starts a process for each.

The actors run in the evaluation environment (`ilm_ray/evaluation/environment.py`), so this module imports nothing that
is not there too. A set's only effects are its files, so it may be run twice.
"""

import contextlib
import json
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ilm_ray.evaluation.results import LackingResult, SetResult
from ilm_ray.evaluation.suites import Benchmark
from ilm_ray.run.progress import Progress

RESTARTS = 3  # of an evaluator that died; a set that kills it each time fails
# OpenCompass and the libraries below it would fetch what is missing; a proxy would take the calls to the model.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "NO_PROXY": "*",
    "no_proxy": "*",
    "TOKENIZERS_PARALLELISM": "false",
}


class EvaluationError(RuntimeError):
    """Sets that could not be run: their names, the reasons, their logs."""


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible endpoint that judges answers; `key` is the value of the environment variable `key_env`."""

    url: str
    name: str
    key_env: str | None = None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ModelUnderTest:
    """The model under test, and settings that all sets share.

    url: of an OpenAI-compatible endpoint without /v1; tokenizer: folder of its tokenizer.json, None where unknown;
    context: tokens of prompt and answer; data: the folder that holds OpenCompass's `data`; folder: gets the results;
    examples: of each set, None: all; node: Ray node from which the endpoint is reached, None: any; judge: the judge of
    judged benchmarks.
    """

    url: str
    name: str
    tokenizer: str | None
    context: int
    data: str
    folder: str
    examples: int | None
    node: str | None = None
    request_s: float = 600.0
    judge: Judge | None = None


@dataclass(frozen=True)
class SetOf:
    """One set of a benchmark; `missing`: files of it that are not there; `weight`: in the benchmark's figure."""

    benchmark: Benchmark
    name: str
    weight: float
    missing: list[str]

    @property
    def file(self) -> str:
        return f"{self.benchmark.key}/{self.name}.json"


class Evaluator:
    """The Ray actor in OpenCompass's environment: keeps its model's client warm from set to set."""

    def __init__(self, target: ModelUnderTest) -> None:
        self.target = target
        os.environ["COMPASS_DATA_CACHE"] = target.data
        if target.judge and target.judge.key_env and target.judge.key:
            os.environ[target.judge.key_env] = target.judge.key
        os.chdir(target.data)  # some of OpenCompass's configurations name ./data

    def plan(self, benchmarks: Sequence[Benchmark]) -> list[SetOf]:
        """Every set of the benchmarks, with the data files that it lacks."""
        from ilm_ray.evaluation.opencompass.sets import missing_files, sets_of, weights_of

        plan, root = list[SetOf](), Path(self.target.data)
        for benchmark in benchmarks:
            sets = sets_of(benchmark, root, self.target.examples)
            weights = weights_of(benchmark, list(sets))
            for name, config in sets.items():
                missing = [str(path) for path in missing_files(benchmark, config, root)]
                if name in weights:
                    plan.append(SetOf(benchmark, name, weights[name], missing))
        return plan

    def run(self, work: SetOf) -> str | None:
        """Write results/<file> of the set; returns the reason where that failed, else None. The log lies beside.

        Where this node lacks a program or package of the set, the result is {"lacks": its name} without any request.
        """
        from ilm_ray.evaluation.opencompass.run import model_config, run_set
        from ilm_ray.evaluation.opencompass.sets import build_arguments, lacks_here, sets_of

        target, folder = self.target, Path(self.target.folder)
        log = folder / "logs" / f"{work.file}.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                config = sets_of(work.benchmark, Path(target.data), target.examples)[work.name]
                model = model_config(
                    work.benchmark.kind, target.url, target.name, target.context, target.tokenizer, target.request_s
                )
                arguments, below = build_arguments(work.benchmark, config), folder / "opencompass" / work.benchmark.key
                result: SetResult | LackingResult
                if lacks := lacks_here(work.benchmark, config):
                    result = {"lacks": lacks}
                elif work.benchmark.judged:
                    result = self._judge(work.benchmark.name, arguments, model, below)
                else:
                    result = run_set(arguments, model, below)
            except Exception as error:  # raised by a set's code: the others go on, the job fails at the end
                traceback.print_exc(file=out)
                return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; log: {log}"
        path = folder / "results" / work.file
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
        return None

    def _judge(self, name: str, arguments: dict[str, Any], model: Any, folder: Path) -> SetResult:
        from ilm_ray.evaluation.opencompass.judged import judge_config, run_judged

        judge = self.target.judge
        assert judge is not None
        config = judge_config(judge.url, judge.name, judge.key_env, self.target.request_s)
        return run_judged(name, arguments, model, config, folder)


def scored(result: Path) -> bool:
    """Whether a set's result is there. A result that only reports something missing on the node does not count: it may
    have it now."""
    return result.exists() and "score" in json.loads(result.read_text(encoding="utf-8"))


def plan_sets(benchmarks: Sequence[Benchmark], target: ModelUnderTest, python: Path, deadline_s: float) -> list[SetOf]:
    """The sets of `benchmarks`, as OpenCompass's configurations have them."""
    evaluator = _start(target, python)
    try:
        return ray.get(evaluator.plan.remote(list(benchmarks)), timeout=deadline_s)
    finally:
        ray.kill(evaluator)


def run_sets(sets: Sequence[SetOf], target: ModelUnderTest, python: Path, workers: int, deadline_s: float) -> None:
    """Run every set that has no result yet, on `workers` evaluators.

    Raises EvaluationError after the last set where some failed, and at once where no set is done within `deadline_s`.
    """
    results = Path(target.folder) / "results"
    left = [work for work in sets if not scored(results / work.file)]
    done, failed = len(sets) - len(left), dict[str, str]()
    if not left:
        return
    progress = Progress("benchmarks", len(sets), done=done)
    free = [_start(target, python) for _ in range(min(workers, len(left)))]
    running: dict[ray.ObjectRef, tuple[Any, SetOf]] = {}
    try:
        while left or running:
            while free and left:
                evaluator, work = free.pop(), left.pop(0)
                running[evaluator.run.remote(work)] = (evaluator, work)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=deadline_s)
            if not ready:
                names = ", ".join(work.file for _, work in running.values())
                raise EvaluationError(
                    f"no set was done within {deadline_s:g} s; running: {names}; logs: {target.folder}"
                )
            evaluator, work = running.pop(ready[0])
            try:
                reason = ray.get(ready[0])
            except ray.exceptions.RayActorError as error:
                reason = f"its evaluator died {RESTARTS + 1} times: {' '.join(str(error).split())[:300]}"
                evaluator = _start(target, python)
            if reason is not None:
                failed[work.file] = reason
            free.append(evaluator)
            done += 1
            progress.update(done, failed=len(failed))
    finally:
        for evaluator in [*free, *(evaluator for evaluator, _ in running.values())]:
            ray.kill(evaluator)
    if failed:
        raise EvaluationError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def _start(target: ModelUnderTest, python: Path) -> Any:
    env = {"py_executable": str(python), "env_vars": OFFLINE}
    options: dict[str, Any] = {
        "num_cpus": 1,
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
        "runtime_env": env,
    }
    if target.node is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(target.node, soft=False)
    return ray.remote(Evaluator).options(**options).remote(target)
