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
Row = dict[str, Any]


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


def run_set(config: dict[str, Any], model: ConfigDict, folder: Path) -> Row:
    """Answers and score of one set: `metric`, `score`, `examples`, `cut` (prompts too long), `seconds`, `samples`.

    Answers that an earlier, killed attempt left in `folder` are taken over. Raises RuntimeError where OpenCompass says
    that it could not score.
    """
    started, seen = time.monotonic(), window(model["tokenizer"], model["context"])
    cut = seen.cut
    task = ConfigDict(
        models=[model],
        datasets=[[ConfigDict(config)]],
        work_dir=str(folder),
        eval={"runner": {"task": {"dump_details": True}}},
    )
    answered = folder / "predictions" / MODEL / f"{config['abbr']}.json"
    scored = folder / "results" / MODEL / f"{config['abbr']}.json"
    for path in (answered, scored):
        drop_torn(path)
    OpenICLInferTask(task).run()
    OpenICLEvalTask(task).run()
    answers, result = _read(answered), _read(scored)
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


def samples(answers: dict[str, Row], details: Any) -> list[Row]:
    """The first few answers as {prompt, answer, gold, correct, turns}; `correct` is None where the evaluator does not
    tell; turns: all that model and interpreter said, as {role, text}, [] for an answer in one go."""
    rows = []
    for number in range(min(SAMPLES, len(answers))):
        row = answers[str(number)]
        detail = _detail(details, number)
        # OpenCompass keeps a list, of one for each time that a set was answered.
        told = [value for name in ("correct", "is_correct") for value in np.atleast_1d(detail.get(name, []))]
        rows.append(
            {
                "prompt": _prompt(row)[-SAMPLE_CHARS:],
                "answer": str(row.get("prediction", ""))[:SAMPLE_CHARS],
                "gold": str(row.get("gold", ""))[:SAMPLE_CHARS],
                "correct": bool(told[0]) if told else None,
                "turns": [{"role": turn["role"], "text": turn["text"][:SAMPLE_CHARS]} for turn in row.get("turns", [])],
            }
        )
    return rows


def _prompt(row: Row) -> str:
    asked = row.get("origin_prompt")
    if asked is None:  # scored by perplexity: one prompt for each choice
        scored = [value for name, value in row.items() if name.startswith("label: ")]
        return str(scored[0].get("testing input", "")) if scored else ""
    if isinstance(asked, str):
        return asked
    return "\n".join(f"{turn['role']}: {turn['prompt']}" for turn in asked)


def _detail(details: Any, number: int) -> Row:
    if isinstance(details, dict):
        found = details.get(str(number), {})
    else:
        found = details[number] if isinstance(details, list) and number < len(details) else {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8"))
