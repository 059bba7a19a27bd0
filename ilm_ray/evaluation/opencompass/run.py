"""One set of a benchmark through OpenCompass's own inference and scoring tasks, in this process."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import ConfigDict
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

from ilm_ray.evaluation.leftovers import drop_torn
from ilm_ray.evaluation.opencompass.models import ServedBase, ServedChat, window
from ilm_ray.evaluation.results import Sample, SetResult
from ilm_ray.evaluation.suites import Kind

# The order in which OpenCompass's own summary takes the figure of a set.
METRICS = (
    "score", "auc_score", "accuracy", "humaneval_pass@1", "rouge1", "avg_toxicity_score", "bleurt_diff",
    "matthews_correlation", "truth", "f1", "exact_match",
    "follow_acc", "perf_4",  # OpenCompass's summaries name these for the agents, and for choices in four orders
)  # fmt: skip
MODEL = "model"
BATCH = 16
ANSWER_TOKENS = 1024  # where a set names no length, as OpenCompass's configurations of InternLM2 have it
SAMPLES = 3
SAMPLE_CHARS = 4000
Prediction = dict[str, Any]  # a row of OpenCompass's file of predictions; its keys depend on the inferencer


def model_config(kind: Kind, url: str, name: str, context: int, tokenizer: str | None, timeout_s: float) -> ConfigDict:
    """kind: whether text is completed and scored, or conversations answered. Prompts leave a quarter for the answer."""
    types = {"base": ServedBase, "chat": ServedChat}
    return ConfigDict(
        type=types[kind],
        abbr=MODEL,
        path=name,
        url=url,
        context=context,
        tokenizer=tokenizer,
        timeout_s=timeout_s,
        max_seq_len=context - context // 4,
        batch_size=BATCH,
        max_out_len=ANSWER_TOKENS,
    )


def run_set(config: dict[str, Any], model: ConfigDict, folder: Path) -> SetResult:
    """Have the model answer a set, and score it.

    Answers in `folder` of an earlier, killed attempt count. Raises RuntimeError where OpenCompass
    gives no score.
    """
    started, seen = time.monotonic(), window(model["tokenizer"], model["context"])
    cut = seen.cut
    task = ConfigDict(
        models=[model],
        datasets=[[ConfigDict(config)]],
        work_dir=str(folder),
        eval={"runner": {"task": {"dump_details": True}}},
    )
    answers_file = folder / "predictions" / MODEL / f"{config['abbr']}.json"
    scores_file = folder / "results" / MODEL / f"{config['abbr']}.json"
    for path in (answers_file, scores_file):
        drop_torn(path)
    OpenICLInferTask(task).run()
    OpenICLEvalTask(task).run()
    answers, result = _read(answers_file), _read(scores_file)
    metric = next((name for name in METRICS if isinstance(result.get(name), (int, float))), None)
    if metric is None:
        raise RuntimeError(f"{config['abbr']}: no score: {json.dumps(result, ensure_ascii=False)[:300]}")
    return {
        "metric": metric,
        "score": float(result[metric]),
        "examples": len(answers),
        "cut": seen.cut - cut,
        "seconds": round(time.monotonic() - started, 2),
        "samples": samples(answers, result.get("details")),
    }


def samples(answers: dict[str, Prediction], details: Any) -> list[Sample]:
    """The first SAMPLES answers. details: verdicts on single answers, a list or a dict by the answer's number."""
    rows = list[Sample]()
    for number in range(min(SAMPLES, len(answers))):
        row = answers[str(number)]
        detail = _detail(details, number)
        # OpenCompass keeps a list with a verdict for each time that the set was answered.
        verdicts = [value for name in ("correct", "is_correct") for value in np.atleast_1d(detail.get(name, []))]
        rows.append(
            {
                "prompt": _prompt(row)[-SAMPLE_CHARS:],
                "answer": str(row.get("prediction", ""))[:SAMPLE_CHARS],
                "gold": str(row.get("gold", ""))[:SAMPLE_CHARS],
                "correct": bool(verdicts[0]) if verdicts else None,
                "turns": [{"role": turn["role"], "text": turn["text"][:SAMPLE_CHARS]} for turn in row.get("turns", [])],
            }
        )
    return rows


def _prompt(row: Prediction) -> str:
    prompt = row.get("origin_prompt")
    if prompt is None:  # scored by perplexity: one prompt for each choice
        scored = [value for name, value in row.items() if name.startswith("label: ")]
        return str(scored[0].get("testing input", "")) if scored else ""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['prompt']}" for turn in prompt)


def _detail(details: Any, number: int) -> dict[str, Any]:
    if isinstance(details, dict):
        detail = details.get(str(number), {})
    else:
        detail = details[number] if isinstance(details, list) and number < len(details) else {}
    return detail if isinstance(detail, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
