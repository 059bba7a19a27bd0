"""The sets of a benchmark: OpenCompass's own configurations, with our paths of the data and number of examples."""

import importlib
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from opencompass.openicl.icl_retriever import FixKRetriever

from ilm_ray.evaluation.opencompass.agent import InterpreterInferencer, InterpreterMATH
from ilm_ray.evaluation.opencompass.programs import SandboxedHumanEval, SandboxedHumanEvalX, SandboxedMBPP
from ilm_ray.evaluation.programs.humaneval_x import lacking
from ilm_ray.evaluation.suites import Benchmark

CONFIGS = "opencompass.configs.datasets"
GROUPS = "opencompass.configs.summarizers.groups"


def sets_of(benchmark: Benchmark, root: Path, examples: int | None) -> dict[str, ConfigDict]:
    """Name of each set -> its configuration. examples: the first so many of each, None: all.

    Raises ModuleNotFoundError where OpenCompass has no such configuration.
    """
    module = importlib.import_module(f"{CONFIGS}.{benchmark.config}")
    lists = [value for name, value in vars(module).items() if name.endswith("_datasets") and isinstance(value, list)]
    configs = {row["abbr"]: ConfigDict(row) for rows in lists for row in rows if benchmark.only in row["abbr"]}
    for config in configs.values():
        _adapt(config, benchmark, root, examples)
    return configs


def missing_files(benchmark: Benchmark, config: ConfigDict, root: Path) -> list[Path]:
    """Files that a set reads and that are not there."""
    fields = {name: value for name, value in config.items() if isinstance(value, str)}
    first, _, second = fields.get("name", "").partition("-")
    wanted = (root / template.format(**fields, first=first, second=second) for template in benchmark.data)
    return [path for path in wanted if not path.exists()]


def lacks_here(benchmark: Benchmark, config: ConfigDict) -> str | None:
    """The compiler that this machine lacks to score a set, None where nothing is missing."""
    return lacking(config["language"]) if benchmark.name == "HumanEval-X" else None


def weights_of(benchmark: Benchmark, names: list[str]) -> dict[str, float]:
    """Weight of each set in the benchmark's figure, by OpenCompass's summary group; without a group 1 each."""
    for module in ("mmlu", "cmmlu", "ceval", "agieval", "bbh", "flores", "GaokaoBench"):
        groups = [v for k, v in vars(importlib.import_module(f"{GROUPS}.{module}")).items() if k.endswith("_groups")]
        for group in (g for rows in groups for g in rows if g["name"] == benchmark.group):
            weights = group.get("weights", {})
            return {name: float(weights.get(name, 1.0)) for name in names if name in group["subsets"]}
    return dict.fromkeys(names, 1.0)


def _adapt(config: ConfigDict, benchmark: Benchmark, root: Path, examples: int | None) -> None:
    if examples is not None and not benchmark.whole:
        config["reader_cfg"]["test_range"] = f"[0:{examples}]"
    if benchmark.fixed_shots:
        shots = list(range(benchmark.fixed_shots))
        config["infer_cfg"]["retriever"] = {"type": FixKRetriever, "fix_id_list": shots}
    if benchmark.config.startswith("leval."):  # it names a hub; a local folder takes no second name
        config["path"] = str(root / "data/leval" / config["name"])
    if benchmark.interpreter:
        config["infer_cfg"]["inferencer"] = {"type": InterpreterInferencer}
    if benchmark.name == "MATH, code interpreter":
        config["eval_cfg"]["evaluator"] = {"type": InterpreterMATH}
    if benchmark.name == "HumanEval":
        config["eval_cfg"]["evaluator"] = {"type": SandboxedHumanEval, "path": config["path"]}
    if benchmark.name == "MBPP sanitized":
        config["eval_cfg"]["evaluator"] = {"type": SandboxedMBPP}
    if benchmark.name == "HumanEval-X":
        config["eval_cfg"]["evaluator"] = {"type": SandboxedHumanEvalX, "language": config["language"]}


def build_arguments(benchmark: Benchmark, config: ConfigDict) -> dict[str, Any]:
    """The configuration for OpenCompass, without the field that only `missing_files` reads."""
    if benchmark.config.startswith("leval."):
        return {name: value for name, value in config.items() if name != "name"}
    return dict(config)
