"""Judged benchmarks: OpenCompass's subjective evaluation, prompts and reading of verdicts, with a judge at an endpoint.

Ours: the judge sees every comparison in both orders, and the result counts the verdicts that the order changed and
those that could not be read. A verdict that cannot be read, or lies outside its scale, is in no figure.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from opencompass.datasets.subjective import alignbench, alpacaeval, compass_arena, mtbench
from opencompass.tasks import OpenICLInferTask
from opencompass.tasks.subjective_eval import SubjectiveEvalTask
from opencompass.utils import deal_with_judge_model_abbr, get_infer_output_path

from ilm_ray.evaluation.leftovers import drop_torn
from ilm_ray.evaluation.opencompass.models import ServedChat, window
from ilm_ray.evaluation.results import Sample, SetResult
from ilm_ray.evaluation.verdicts import FIRST, SECOND, TIE, both_orders

JUDGE_CONTEXT = 32_768  # tokens of question, answers and verdict; what is longer loses its middle and is counted
JUDGE_TOKENS = 4096  # of a verdict with its reasons
BATCH = 16
SAMPLES = 3
SAMPLE_CHARS = 4000
WIN_RATE = "win rate against gpt4-turbo"
Judgement = dict[str, Any]  # a row of OpenCompass's file of judgements: prediction, gold, origin_prompt


@dataclass(frozen=True)
class Reading:
    """OpenCompass's functions that read a benchmark's verdicts and add them up.

    read: a judgement -> its verdict, None where it holds none; figure: the readable judgements -> score and its name;
    of: the best score.
    """

    read: Callable[[Judgement], Any]
    figure: Callable[[dict[str, Judgement]], tuple[float, str]]
    of: int


def judge_config(url: str, name: str, key_env: str | None, timeout_s: float) -> ConfigDict:
    """The judge as a model of OpenCompass; `key_env`: name of the environment variable that holds its key."""
    return ConfigDict(
        type=ServedChat,
        abbr="judge",
        path=name,
        url=url,
        context=JUDGE_CONTEXT,
        tokenizer=None,
        timeout_s=timeout_s,
        max_seq_len=JUDGE_CONTEXT - JUDGE_TOKENS,
        key_env=key_env,
        batch_size=BATCH,
        max_out_len=JUDGE_TOKENS,
    )


def run_judged(name: str, config: dict[str, Any], model: ConfigDict, judge: ConfigDict, folder: Path) -> SetResult:
    """As run_set, for a set of the benchmark `name`, with `of` (the best score), `weight` and `judged`.

    weight: readable verdicts, where the benchmark's figure is a mean over the questions of all sets, else 1.
    Raises RuntimeError where no verdict at all could be read.
    """
    started, seen = time.monotonic(), window(model["tokenizer"], model["context"])
    judging = window(judge["tokenizer"], judge["context"])
    cut, cut_judging = seen.cut, judging.cut
    config = ConfigDict(config)
    reading = READINGS[name]
    if "test_range" in config["reader_cfg"]:
        config["abbr"] += "_0"  # OpenCompass takes a range for one part of a set that was cut by size
    compared = config["mode"] == "m2n"
    model = ConfigDict(model, temperature=config["infer_cfg"]["inferencer"].get("temperature", 0.0))
    pair = (*(ConfigDict(base) for base in config["base_models"]), model) if compared else model
    work = {"datasets": [[config]], "work_dir": str(folder)}
    answers_file = Path(get_infer_output_path(model, config, str(folder / "predictions")))
    judge_name = deal_with_judge_model_abbr(pair, judge)
    judgements_file = Path(get_infer_output_path(judge_name, config, str(folder / "results")))
    for path in (answers_file, judgements_file):
        drop_torn(path)
    OpenICLInferTask(ConfigDict(work, models=[model])).run()
    order = "double" if compared else None
    SubjectiveEvalTask(ConfigDict(work, models=[pair], judge_model=judge, infer_order=order)).run()
    judgements: dict[str, Judgement] = json.loads(judgements_file.read_text(encoding="utf-8"))
    verdicts = {number: _verdict(reading, judgement) for number, judgement in judgements.items()}
    readable = {number: judgements[number] for number, verdict in verdicts.items() if verdict is not None}
    if not readable:
        example = " ".join(str(judgements["0"]["prediction"]).split())[:200] if judgements else ""
        raise RuntimeError(
            f"{config['abbr']}: none of {len(judgements)} verdicts of the judge could be read; it said: {example!r}"
        )
    score, metric = reading.figure(readable)
    ordered = [verdicts[str(number)] for number in range(len(judgements))]
    judged = {"by": judge["path"], "verdicts": len(judgements), "unread": len(judgements) - len(readable)}
    judged |= both_orders([_better(verdict) for verdict in ordered]) if compared else {"pairs": 0, "same": 0}
    judged |= {"ties": sum(verdict == "C" for verdict in ordered), "cut": judging.cut - cut_judging}
    return {
        "metric": metric,
        "score": score,
        "of": reading.of,
        "weight": 1.0 if compared else float(len(readable)),
        "examples": len(json.loads(answers_file.read_text(encoding="utf-8"))),
        "cut": seen.cut - cut,
        "seconds": round(time.monotonic() - started, 2),
        "judged": judged,
        "samples": [_sample(judgements[str(n)], ordered[n]) for n in range(min(SAMPLES, len(ordered)))],
    }


def _verdict(reading: Reading, judgement: Judgement) -> Any:
    """The verdict, None where it cannot be read or a rating lies outside 1 to 10."""
    try:
        verdict = reading.read(judgement)
    except (ValueError, KeyError, TypeError):  # their pattern takes "[[.]]" for a number
        return None
    if isinstance(verdict, dict) and "score" in verdict and not 1 <= verdict["score"] <= 10:
        return None
    return verdict


def _better(verdict: Any) -> int | None:
    if verdict is None:
        return None
    return {"A": FIRST, "B": SECOND, "C": TIE, 1: FIRST, 2: SECOND}[
        verdict["rank"] if isinstance(verdict, dict) else verdict
    ]


def _alpaca_eval(judgements: dict[str, Judgement]) -> tuple[float, str]:
    return float(alpacaeval.alpacaeval_postprocess(judgements, "")["total"]), WIN_RATE


def _compass_arena(judgements: dict[str, Judgement]) -> tuple[float, str]:
    """Over the whole set, as the set's row in OpenCompass's summary; their function returns one figure a category."""
    whole = {n: row | {"gold": row["gold"] | {"capability": "all"}} for n, row in judgements.items()}
    return float(compass_arena.compassarena_postprocess(whole, "")["all"]), WIN_RATE


def _mt_bench(judgements: dict[str, Judgement]) -> tuple[float, str]:
    return float(mtbench.mtbench_postprocess(judgements, "")["total"]), "mean rating"


def _align_bench(judgements: dict[str, Judgement]) -> tuple[float, str]:
    """Their figure is the mean of two groups of categories: a category without a verdict would count as zero."""
    wanted = {name for names in alignbench.CATEGORIES.values() for name in names}
    if wanted <= {row["gold"]["capability"] for row in judgements.values()}:
        return float(alignbench.alignbench_postprocess(judgements, "")["总分"]), "mean of reasoning and language"
    ratings = [alignbench.post_process_alignbench(row)["score"] for row in judgements.values()]
    return sum(ratings) / len(ratings), "mean rating, not every category judged"


def _sample(judgement: Judgement, verdict: Any) -> Sample:
    prompt = "\n".join(f"{turn['role']}: {turn['prompt']}" for turn in judgement["origin_prompt"])
    return {
        "prompt": prompt[-SAMPLE_CHARS:],
        "answer": f"The judge: {judgement['prediction']}"[:SAMPLE_CHARS],
        "gold": "could not be read" if verdict is None else f"read as {verdict}",
        "correct": None,
    }


READINGS = {
    "AlpacaEval": Reading(alpacaeval.post_process_alpacav2, _alpaca_eval, 100),
    "MT-Bench": Reading(mtbench.post_process_mtbench, _mt_bench, 10),
    "CompassArena": Reading(compass_arena.post_process_compassarena, _compass_arena, 100),
    "AlignBench": Reading(alignbench.post_process_alignbench, _align_bench, 10),
}
