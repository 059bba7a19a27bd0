"""Runs in the evaluation environment for a test: OpenCompass's own scoring of programs, outside the sandbox."""

import json
from pathlib import Path


def mbpp_verdicts(answers: Path, results: Path) -> tuple[list[bool], list[bool]]:
    """Theirs and the sandbox's for every answer: {number: {prediction, gold}} and the result file of the same set."""
    from opencompass.datasets.mbpp import MBPPEvaluator

    rows = json.loads(answers.read_text(encoding="utf-8"))
    ordered = [rows[str(number)] for number in range(len(rows))]
    theirs = MBPPEvaluator().score([row["prediction"] for row in ordered], [row["gold"] for row in ordered])
    ours = json.loads(results.read_text(encoding="utf-8"))["details"]
    return (
        [theirs["details"][str(number)]["is_correct"] for number in range(len(rows))],
        [detail["is_correct"][0] for detail in ours],
    )
